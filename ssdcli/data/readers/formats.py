"""The formats that can be read: a reader for each suffix. A new format is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import read_html
from ssdcli.data.readers.mail import is_mail, is_mbox, read_emlx, read_mail, read_mbox, read_mhtml
from ssdcli.data.readers.office import read_docx, read_pdf
from ssdcli.data.readers.rows import read_csv, read_json, read_json_or_text, read_parquet, read_tsv
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
    ".jsonl": Format(read_json),
    ".ndjson": Format(read_json),
    ".json": Format(read_json),
    ".csv": Format(read_csv),
    ".tsv": Format(read_tsv),
    ".tab": Format(read_tsv),
    ".parquet": Format(read_parquet, binary=True),
    ".pq": Format(read_parquet, binary=True),
    ".html": Format(read_html),
    ".htm": Format(read_html),
    ".xhtml": Format(read_html),
    ".mbox": Format(read_mbox, binary=True),
    ".mbx": Format(read_mbox, binary=True),
    ".eml": Format(read_mail, binary=True),
    ".emlx": Format(read_emlx, binary=True),
    ".mht": Format(read_mhtml, binary=True),
    ".mhtml": Format(read_mhtml, binary=True),
    ".pdf": Format(read_pdf, binary=True),
    ".docx": Format(read_docx, binary=True),
}
PLAIN = Format(read_text)  # any other suffix
UNNAMED = Format(read_json_or_text)  # standard input and pipes

RECOGNISED: Sequence[tuple[Callable[[bytes], bool], Format]] = (
    (is_mbox, Format(read_mbox, binary=True)),
    (is_mail, Format(read_mail, binary=True)),
)


def recognised(head: bytes) -> Format | None:
    """The format that first bytes show, for what no suffix tells; None for text."""
    return next((form for shows, form in RECOGNISED if shows(head)), None)
