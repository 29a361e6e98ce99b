"""The formats that can be read: a reader for each suffix. A new format is one file here and one line below."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ssdcli.data.documents import Document
from ssdcli.data.readers.chats import is_whatsapp, read_whatsapp
from ssdcli.data.readers.html import read_html
from ssdcli.data.readers.mail import is_mail, is_mbox, read_emlx, read_mail, read_mbox, read_mhtml
from ssdcli.data.readers.notes import read_enex, read_markdown, read_notebook, read_org
from ssdcli.data.readers.office import read_docx, read_pdf, read_rtf, read_xlsx
from ssdcli.data.readers.rows import read_csv, read_json, read_json_or_text, read_parquet, read_tsv
from ssdcli.data.readers.text import read_text
from ssdcli.data.readers.zipped import read_epub, read_open_document, read_pptx
from ssdcli.data.streams import Source


@dataclass(frozen=True)
class Format:
    """How documents are read from a source.

    read: yields its documents, and counts what it skips in the source's report.
    binary: whether the source may hold bytes that do not occur in text; other sources that hold some are skipped.
    """

    read: Callable[[Source], Iterator[Document]]
    binary: bool = False


NOT_READ: Mapping[str, tuple[str, ...]] = {
    "old Word (save it as DOCX)": (".doc", ".dot"),
    "old Excel (save it as XLSX)": (".xls",),
    "old PowerPoint (save it as PPTX)": (".ppt",),
    "Pages, Numbers or Keynote (export it)": (".pages", ".numbers"),
    "Kindle book": (".mobi", ".azw", ".azw3", ".kfx"),
    "Outlook mail (export it as mbox or EML)": (".msg", ".pst", ".ost", ".olm"),
    "OneNote": (".one", ".onepkg"),
    "DjVu": (".djvu", ".djv"),
    "RAR or 7-Zip archive (unpack it)": (".rar", ".7z", ".zst"),
    "SVG, a picture": (".svg", ".svgz"),
    "Excalidraw, a drawing": (".excalidraw", ".canvas"),
    "index of a mail program": (".msf",),
    "database": (".sqlite", ".sqlite3", ".db", ".mdb", ".accdb"),
}


def _not_read(name: str, source: Source) -> Iterator[Document]:
    """Count a file of a format that is not read, by its name."""
    source.skip(f"{name}, which is not read")
    return iter(())


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
    ".docm": Format(read_docx, binary=True),
    ".xlsx": Format(read_xlsx, binary=True),
    ".xlsm": Format(read_xlsx, binary=True),
    ".rtf": Format(read_rtf, binary=True),
    ".pptx": Format(read_pptx, binary=True),
    ".epub": Format(read_epub, binary=True),
    ".odt": Format(read_open_document, binary=True),
    ".ods": Format(read_open_document, binary=True),
    ".odp": Format(read_open_document, binary=True),
    ".ipynb": Format(read_notebook, binary=True),
    ".enex": Format(read_enex, binary=True),
    ".md": Format(read_markdown),
    ".markdown": Format(read_markdown),
    ".org": Format(read_org),
} | {
    suffix: Format(partial(_not_read, name), binary=True) for name, suffixes in NOT_READ.items() for suffix in suffixes
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
PACKED: Mapping[str, Callable[[Path, Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PLAIN = Format(read_text)  # any other suffix
UNNAMED = Format(read_json_or_text)  # standard input and pipes

_ZIPPED = (  # by a path that is in each of a kind, near the beginning
    (b"word/document.xml", read_docx),
    (b"xl/workbook.xml", read_xlsx),
    (b"ppt/presentation.xml", read_pptx),
    (b"application/epub+zip", read_epub),
    (b"application/vnd.oasis.opendocument", read_open_document),
)


def _begins(mark: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.lstrip(b"\xef\xbb\xbf \r\n\t")[: len(mark)].lower() == mark


def _holds(mark: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(b"PK\3\4") and mark in head


RECOGNISED: Sequence[tuple[Callable[[bytes], bool], Format]] = (
    (is_mbox, Format(read_mbox, binary=True)),
    (is_mail, Format(read_mail, binary=True)),
    (is_whatsapp, Format(read_whatsapp)),
    (_begins(b"%pdf-"), Format(read_pdf, binary=True)),
    (_begins(b"par1"), Format(read_parquet, binary=True)),
    (_begins(b"{\\rtf"), Format(read_rtf, binary=True)),
    (_begins(b"<!doctype html"), Format(read_html)),
    (_begins(b"<html"), Format(read_html)),
    *((_holds(mark), Format(read, binary=True)) for mark, read in _ZIPPED),
)


def recognised(head: bytes) -> Format | None:
    """The format that first bytes show, for what no suffix tells; None for text."""
    return next((form for shows, form in RECOGNISED if shows(head)), None)
