"""The formats that can be read: a reader for each suffix. A new format is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import read_html
from ssdcli.data.readers.mail import read_mbox
from ssdcli.data.readers.office import read_docx, read_pdf
from ssdcli.data.readers.rows import (
    read_csv,
    read_json,
    read_json_lines,
    read_json_lines_or_text,
    read_parquet,
    read_tsv,
)
from ssdcli.data.readers.text import read_text
from ssdcli.data.streams import Source


@dataclass(frozen=True)
class Format:
    """How documents are read from a source.

    read: yields its documents, and counts what it skips in the source's report.
    binary: whether the source may hold bytes that do not occur in text; other sources that hold some are skipped.
    """

    read: Callable[[Source], Iterator[Document]]
    binary: bool = False


FORMATS: Mapping[str, Format] = {
    ".jsonl": Format(read_json_lines),
    ".ndjson": Format(read_json_lines),
    ".json": Format(read_json),
    ".csv": Format(read_csv),
    ".tsv": Format(read_tsv),
    ".parquet": Format(read_parquet, binary=True),
    ".pq": Format(read_parquet, binary=True),
    ".html": Format(read_html),
    ".htm": Format(read_html),
    ".xhtml": Format(read_html),
    ".mbox": Format(read_mbox),
    ".pdf": Format(read_pdf, binary=True),
    ".docx": Format(read_docx, binary=True),
}
PLAIN = Format(read_text)  # any other suffix
UNNAMED = Format(read_json_lines_or_text)  # standard input and pipes
