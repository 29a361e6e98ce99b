"""Packed files: ZIP and TAR archives, whose members are read like files."""

from __future__ import annotations

import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
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
        members = _Members(archive.namelist, archive.read)
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if member.is_dir() or _is_left_out(source, member.filename):
                continue
            name = f"{source.name}/{printable(member.filename)}"
            if member.flag_bits & 1:
                source.report.skip("file with a password", name)
            elif member.file_size > max(_BOMB_BYTES, _BOMB * member.compress_size):
                source.report.skip("file that unpacks to far too much", name)
            else:
                path = PurePosixPath(member.filename)
                with archive.open(member) as file:
                    chunks = byte_chunks(cast(ByteStream, file), name, source.report)
                    beside = partial(members.beside, path.parent)
                    yield from read_member(replace(source, name=name, chunks=chunks, path=None, neighbour=beside), path)


def _tar_documents(source: Source, read_member: Member) -> Iterator[Document]:
    with tarfile.open(source.path) as archive:
        members = _Members(archive.getnames, partial(_tar_bytes, archive))
        for member in archive:
            if not member.isfile() or _is_left_out(source, member.name):
                continue
            file = archive.extractfile(member)
            assert file is not None  # it is a file
            name = f"{source.name}/{printable(member.name)}"
            path = PurePosixPath(member.name)
            chunks = byte_chunks(cast(ByteStream, file), name, source.report)
            beside = partial(members.beside, path.parent)
            yield from read_member(replace(source, name=name, chunks=chunks, path=None, neighbour=beside), path)


@dataclass(frozen=True)
class _Members:
    """The members of an archive, by their paths.

    names: lists all names, in whatever way the archive writes paths.
    read: the bytes of one of them.
    """

    names: Callable[[], list[str]]
    read: Callable[[str], bytes]
    _held: dict[str, bytes | None] = field(default_factory=dict)

    @cached_property
    def _written(self) -> dict[str, str]:
        return {posixpath.normpath(name): name for name in self.names()}

    def beside(self, folder: PurePosixPath, relative: str) -> bytes | None:
        """A member by its path from a folder, read once; None if there is none that can be read."""
        path = posixpath.normpath(folder / relative)
        if path not in self._held:
            try:
                self._held[path] = self.read(self._written[path])
            except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError, RuntimeError):
                self._held[path] = None
        return self._held[path]


def _tar_bytes(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    return b"" if file is None else file.read()


def _is_left_out(source: Source, name: str) -> bool:
    reason = reason_against(PurePosixPath(name))
    if reason is not None:
        source.report.skip(reason, f"{source.name}/{printable(name)}")
    return reason is not None
