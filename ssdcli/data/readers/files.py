"""Documents of files, folders and standard input: which files are read, and what is counted as skipped."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import cast

from ssdcli.data.documents import Document, ReadReport, printable
from ssdcli.data.readers.archives import archive_documents
from ssdcli.data.readers.exclusion import Exclusion
from ssdcli.data.readers.formats import ARCHIVES, FORMATS, PACKED, PLAIN, UNNAMED, Format, recognised
from ssdcli.data.readers.html import declared_charset
from ssdcli.data.readers.secrets import without_secrets
from ssdcli.data.reading import AS_USUAL, Reading
from ssdcli.data.streams import ByteStream, Source, byte_chunks, read_head
from ssdcli.errors import UsageError
from ssdcli.machine.encodings import HEAD_BYTES, looks_binary, true_codec
from ssdcli.options.declare import STREAM


def read_documents(sources: Sequence[str], report: ReadReport, reading: Reading = AS_USUAL) -> Iterator[Document]:
    """Yield the documents of files, folders (recursively, in sorted order) and `-`, standard input.

    Raises UsageError at once, before anything is read, if a source does not exist. What cannot be used is counted in
    `report`, which is complete when the iterator is exhausted.
    """
    if not sources:
        raise UsageError("no text was given.", "Name files or folders, or '-' for standard input.")
    for source in sources:
        if source != STREAM:
            _require_existing(source)
    return chain.from_iterable(_read_source(source, report, reading) for source in sources)


def _require_existing(source: str) -> None:
    try:
        Path(source or "no name").stat()
    except PermissionError:
        return  # it may exist; reading it will count it as unreadable
    except (OSError, ValueError) as error:
        problem = f"there is no file or folder '{printable(source)}'."
        raise UsageError(problem, "Check the path; '-' stands for standard input.") from error


def _read_source(source: str, report: ReadReport, reading: Reading) -> Iterator[Document]:
    if source == STREAM:
        documents = without_secrets(_read_standard_input(report, reading), report)
        yield from _count_file(documents, "standard input", report)
        return
    path = Path(source)
    exclusion = Exclusion(path if path.is_dir() else path.parent, reading, report)
    for file in exclusion.files() if path.is_dir() else [path]:
        name, included = printable(str(file)), exclusion.includes(file)
        if path.is_dir() and _is_special(file):
            report.skip("not a regular file", name)
            continue
        documents = _read_path(file, report, reading)
        if included:
            documents = (replace(document, included=True) for document in documents)
        yield from _count_file(documents if included else without_secrets(documents, report), name, report)


def _is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, which could block forever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _count_file(documents: Iterator[Document], name: str, report: ReadReport) -> Iterator[Document]:
    """Pass on the documents of a file, and count the file as read, unreadable or empty."""
    documents_before, files_before, skips_before = report.documents, report.files, sum(report.skipped.values())
    try:
        yield from documents
    except OSError:
        report.skip("unreadable", name)
    if report.documents > documents_before:
        report.files += report.files == files_before  # those in an archive have been counted
    elif sum(report.skipped.values()) == skips_before:
        report.skip("empty", name)


def _read_path(path: Path, report: ReadReport, reading: Reading) -> Iterator[Document]:
    name, lower = printable(str(path)), path.name.lower()
    if path.is_file() and (lower.endswith(ARCHIVES) or _is_archive(path)):
        yield from archive_documents(Source(name, iter(()), report, path, reading), _read_member)
        return
    packed = path.suffix.lower() in PACKED and path.is_file()
    opened = PACKED[path.suffix.lower()](path, "rb") if packed else path.open("rb")
    # A named pipe, such as the shell makes of <(...), has no suffix to go by.
    how = _by_path(path.with_suffix("") if packed else path) if path.is_file() else UNNAMED
    with opened as file:
        chunks = byte_chunks(_buffered(file), name, report)
        yield from _read(how, Source(name, chunks, report, None if packed else path, reading))


def _by_path(path: Path) -> Format:
    """By the suffix; what lies in a Maildir is a mail, whatever its name and headers."""
    folder = path.parent
    if folder.name in ("cur", "new") and all((folder.parent / name).is_dir() for name in ("cur", "new", "tmp")):
        return FORMATS[".eml"]
    return _by_suffix(path)


def _by_suffix(path: PurePath) -> Format:
    return FORMATS.get(path.suffix.lower(), PLAIN if path.suffix else UNNAMED)


def _is_archive(path: Path) -> bool:
    """Whether a file without a known suffix is a ZIP archive, and no document that is one inside."""
    if path.suffix.lower() in FORMATS or path.suffix.lower() in PACKED:
        return False
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return head.startswith(b"PK\3\4") and recognised(head) is None


def _read_member(source: Source, path: PurePath) -> Iterator[Document]:
    """Read a member of an archive, whose bytes have been unpacked."""
    if path.name.lower().endswith((*ARCHIVES, *PACKED)):
        source.skip("an archive in an archive")
        return
    yield from _count_file(_read(_by_suffix(path), source), source.name, source.report)


def _read_standard_input(report: ReadReport, reading: Reading) -> Iterator[Document]:
    chunks = byte_chunks(_buffered(sys.stdin.buffer), "standard input", report)
    yield from _read(UNNAMED, Source("standard input", chunks, report, reading=reading))


def _buffered(stream: object) -> ByteStream:
    """A buffered stream of bytes; its declared type lacks `read1`, which it has."""
    return cast(ByteStream, stream)


def _read(how: Format, source: Source) -> Iterator[Document]:
    """Read a source by its format; one that holds bytes where text should be is counted as binary."""
    if not how.binary:
        head = read_head(source.chunks)
        source = replace(source, chunks=chain([head], source.chunks))
        how = (recognised(head) if how in (PLAIN, UNNAMED) else None) or how
        if not how.binary and looks_binary(head):
            source.skip("binary")
            return
        if head.startswith(b"<?xml"):
            source = replace(source, codec=true_codec(head[: head.rfind(b">") + 1], declared_charset(head)))
    yield from how.read(source)
