"""Packed files: ZIP and TAR archives, whose members are read like files."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import cast

from ssdcli.data.documents import Document, printable
from ssdcli.data.readers.exclusion import reason_against
from ssdcli.data.streams import ByteStream, Source, byte_chunks

_BOMB = 1_000  # times its packed size, from which on a member is no text
_BOMB_BYTES = 1 << 30

Member = Callable[[Source, PurePosixPath], Iterator[Document]]


def archive_documents(source: Source, read_member: Member) -> Iterator[Document]:
    """Read the members of an archive, in their order, as if they were files in a folder; links are left out.

    read_member: reads one of them by its name.
    """
    if source.path is None:
        source.skip("an archive in an archive")
        return
    try:
        if zipfile.is_zipfile(source.path):
            yield from _zip_documents(source, read_member)
        else:
            yield from _tar_documents(source, read_member)
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, EOFError, RuntimeError, ValueError):
        source.skip("broken archive")


def _zip_documents(source: Source, read_member: Member) -> Iterator[Document]:
    assert source.path is not None
    with zipfile.ZipFile(source.path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if member.is_dir() or _is_left_out(source, member.filename):
                continue
            name = f"{source.name}/{printable(member.filename)}"
            if member.flag_bits & 1:
                source.report.skip("file with a password", name)
            elif member.file_size > max(_BOMB_BYTES, _BOMB * member.compress_size):
                source.report.skip("file that unpacks to far too much", name)
            else:
                with archive.open(member) as file:
                    chunks = byte_chunks(cast(ByteStream, file), name, source.report)
                    inner = replace(source, name=name, chunks=chunks, path=None)
                    yield from read_member(inner, PurePosixPath(member.filename))


def _tar_documents(source: Source, read_member: Member) -> Iterator[Document]:
    with tarfile.open(source.path) as archive:
        for member in archive:
            if not member.isfile() or _is_left_out(source, member.name):
                continue
            file = archive.extractfile(member)
            assert file is not None  # it is a file
            name = f"{source.name}/{printable(member.name)}"
            chunks = byte_chunks(cast(ByteStream, file), name, source.report)
            yield from read_member(replace(source, name=name, chunks=chunks, path=None), PurePosixPath(member.name))


def _is_left_out(source: Source, name: str) -> bool:
    reason = reason_against(PurePosixPath(name))
    if reason is not None:
        source.report.skip(reason, f"{source.name}/{printable(name)}")
    return reason is not None
