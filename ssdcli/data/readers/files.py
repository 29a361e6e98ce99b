"""From files, folders and standard input to documents."""

from __future__ import annotations

import gzip
import os
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from ssdcli.data.documents import Document, ReadReport, printable
from ssdcli.data.readers.formats import (
    csv_rows,
    json_rows,
    parquet_rows,
    peek_json_lines,
    row_documents,
    text_documents,
)
from ssdcli.data.readers.html import page_documents
from ssdcli.data.readers.mail import mail_documents
from ssdcli.data.readers.office import READERS, paper_documents
from ssdcli.data.streams import ByteStream, byte_chunks, decode, looks_binary, read_head
from ssdcli.errors import UsageError

__all__ = ["Document", "ReadReport", "read_documents"]

STANDARD_INPUT = "-"
_HIDDEN_FOLDERS = frozenset({"node_modules", "__pycache__"})
_FORMATS = {
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".mbox": "mbox",
    ".pdf": "pdf",
    ".docx": "docx",
}


def read_documents(sources: Sequence[str], report: ReadReport) -> Iterator[Document]:
    """The documents of files, folders (recursively, in sorted order) and `-`, standard input.

    Raises UsageError at once, before anything is read, when a source does not exist. What cannot be used
    is counted in `report`, which is complete when the iterator is exhausted.
    """
    if not sources:
        raise UsageError("No text was given.", "Name files or folders, or '-' for standard input.")
    for source in sources:
        if source != STANDARD_INPUT:
            _require_existing(source)
    return chain.from_iterable(_read_source(source, report) for source in sources)


def _require_existing(source: str) -> None:
    try:
        Path(source or "no name").stat()
    except PermissionError:
        return  # It may exist; reading it will count it as unreadable.
    except (OSError, ValueError) as error:
        problem = f"There is no file or folder '{printable(source)}'."
        raise UsageError(problem, "Check the path; '-' stands for standard input.") from error


def _read_source(source: str, report: ReadReport) -> Iterator[Document]:
    if source == STANDARD_INPUT:
        yield from _count_file(_read_standard_input(report), "standard input", report)
        return
    path = Path(source)
    for file in _files(path, report) if path.is_dir() else [path]:
        yield from _count_file(_read_path(file, report), printable(str(file)), report)


def _files(folder: Path, report: ReadReport) -> Iterator[Path]:
    """The files in a folder and below it, in sorted order; hidden and special ones are counted."""

    def unreadable(error: OSError) -> None:
        report.skip("unreadable", printable(str(error.filename)))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in sorted(folders) if _may_enter(Path(parent, name), report)]
        for path in (Path(parent, name) for name in sorted(names)):
            if path.name.startswith("."):
                report.skip("hidden", printable(str(path)), "entry")
            elif _is_special(path):
                report.skip("not a regular file", printable(str(path)))
            else:
                yield path


def _may_enter(folder: Path, report: ReadReport) -> bool:
    if folder.name.startswith(".") or folder.name in _HIDDEN_FOLDERS:
        report.skip("hidden", printable(str(folder)), "entry")
        return False
    if folder.is_symlink():
        report.skip("link to a folder", printable(str(folder)), "entry")
        return False
    return True


def _is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, which could block for ever."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _count_file(documents: Iterator[Document], name: str, report: ReadReport) -> Iterator[Document]:
    """Pass the documents of one file on, and count the file as read, unreadable or empty."""
    documents_before, skips_before = report.documents, sum(report.skipped.values())
    try:
        yield from documents
    except OSError:
        report.skip("unreadable", name)
    if report.documents > documents_before:
        report.files += 1
    elif sum(report.skipped.values()) == skips_before:
        report.skip("empty", name)


def _read_path(path: Path, report: ReadReport) -> Iterator[Document]:
    name = printable(str(path))
    packed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    # A named pipe, as the shell's <(...) makes, has no telling suffix.
    form = _FORMATS.get(suffix, "text") if path.is_file() else "unknown"
    if form == "parquet" and not packed:
        yield from row_documents(parquet_rows(path), name, report)
    elif packed:
        with gzip.open(path) as unpacked:
            yield from _read_stream(unpacked, form, name, report)
    else:
        with path.open("rb") as file:
            yield from _read_stream(file, form, name, report)


def _read_standard_input(report: ReadReport) -> Iterator[Document]:
    yield from _read_stream(_buffered(sys.stdin.buffer), "unknown", "standard input", report)


def _buffered(stream: BinaryIO) -> ByteStream:
    """Standard input's byte stream, whose declared type leaves out the `read1` it has."""
    return cast(ByteStream, stream)


def _read_stream(stream: ByteStream, form: str, name: str, report: ReadReport) -> Iterator[Document]:
    chunks = byte_chunks(stream, name, report)
    if form in READERS:
        yield from paper_documents(chunks, form, name, report)
        return
    head = read_head(chunks)
    if looks_binary(head):
        report.skip("binary", name)
        return
    if form == "mbox":
        yield from mail_documents(chain([head], chunks), name, report)
        return
    text = decode(chain([head], chunks), name, report)
    if form in ("json", "unknown"):
        is_json_lines, text = peek_json_lines(text)
        if form == "json" and head.removeprefix(BOM_UTF8).strip() and not is_json_lines:
            report.skip("JSON, but not JSON lines (one object on each line)", name)
            return
        form = "json lines" if is_json_lines else "text"
    if form == "json lines":
        yield from row_documents(json_rows(text, name, report), name, report)
    elif form in ("csv", "tsv"):
        rows = csv_rows(text, "," if form == "csv" else "\t", name, report)
        yield from row_documents(rows, name, report)
    elif form == "html":
        yield from page_documents(text, name, report)
    else:
        yield from text_documents(text, name, report)
