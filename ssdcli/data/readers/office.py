"""Office documents: the text of PDF, DOCX, XLSX and RTF files, read by libraries of the extra `documents`."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING

from ssdcli.data.documents import Document
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.streams import Source
from ssdcli.machine.encodings import decode_bytes

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_BYTES = 256 << 20  # of a file, and of a packed one once it is unpacked
EXTRA = "ssdcli[documents]"

_FULL_LINE = 0.7  # share of the longest line's characters from which on a line goes on in the next
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_FORMULA = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_GONE = frozenset({f"{_W}del", f"{_W}moveFrom", f"{_W}pPr", f"{_W}rPr", f"{_W}instrText", _FALLBACK})

for _name in ("pypdf", "openpyxl"):  # they log every irregularity, even in files that they read correctly
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Locked(ValueError):
    """A file that opens only with a password."""


def read_pdf(source: Source) -> Iterator[Document]:
    """Read the text of all pages, lines joined; scanned pages are pictures and have none, which is counted."""
    yield from read_document(source, "PDF", lambda file: _pdf_text(file, source))


def read_docx(source: Source) -> Iterator[Document]:
    """Read paragraphs, insertions, text boxes and notes, and tables with tabs between their cells."""
    yield from read_document(source, "DOCX", _docx_text)


def read_xlsx(source: Source) -> Iterator[Document]:
    """Read the sheets of a workbook, with tabs between cells."""
    yield from read_document(source, "XLSX", _xlsx_text)


def read_rtf(source: Source) -> Iterator[Document]:
    """Read the text of a Rich Text file."""
    yield from read_document(source, "RTF", _rtf_text)


def read_document(source: Source, kind: str, text_of: Callable[[BytesIO], str]) -> Iterator[Document]:
    """Read a file as one document, or as several if it is long; one without text is counted."""
    data = source.whole(MAX_BYTES, f"{kind} of more than 256 MiB")
    if not data:
        return
    try:
        text = text_of(BytesIO(data))
    except ImportError:
        source.skip(f"{kind}, which needs pip install '{EXTRA}'")
    except Locked:
        source.skip(f"{kind} with a password")
    except Exception:  # the libraries raise many kinds of errors for malformed files
        source.skip(f"broken {kind}")
    else:
        if text.strip():
            yield from text_documents([clean(text, source.name, source.report)], source.name, source.report)
        else:
            source.skip(f"{kind} without text")


def check_unpacked(file: BytesIO) -> None:
    """Raise ValueError if a packed file becomes too large."""
    if sum(part.file_size for part in zipfile.ZipFile(file).infolist()) > MAX_BYTES:
        raise ValueError("it unpacks to more bytes than a document may have")


def _pdf_text(file: BytesIO, source: Source) -> str:
    from pypdf import PasswordType, PdfReader

    reader = PdfReader(file)
    if reader.is_encrypted and reader.decrypt("") is PasswordType.NOT_DECRYPTED:
        raise Locked
    pages = []
    for number in range(len(reader.pages)):
        try:
            pages.append(joined_lines(reader.pages[number].extract_text()))
        except Exception:  # one broken page does not cost the others
            source.report.skip("page of a PDF that cannot be read", f"{source.name}:{number + 1}", "page")
            continue
        if not pages[-1].strip() and len(reader.pages) > 1:
            source.report.skip("page of a PDF without text", f"{source.name}:{number + 1}", "page")
    return "\n".join(page for page in pages if page.strip())


def joined_lines(text: str) -> str:
    """The lines of a printed page as paragraphs: hyphens at line ends undone, and full lines joined to the next."""
    lines = [line.strip() for line in text.split("\n")]
    full = _FULL_LINE * max(map(len, lines), default=0)
    joined: list[str] = []
    goes_on = False
    for line in lines:
        hyphenated = goes_on and re.search(r"\w[-\u00ad\u2010]$", joined[-1]) and line[:1].islower()
        if hyphenated:
            joined[-1] = joined[-1][:-1] + line
        elif goes_on and line and not re.match(r"[-•*–]\s|\d+[.)]\s", line):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
        ended = re.search(r"[.!?:]['\"”’)]?$", line) and len(line) < full / _FULL_LINE * 0.9
        goes_on = bool(line) and (len(line) >= full or bool(re.search(r"\w[-\u00ad\u2010]$", line))) and not ended
    return re.sub(r"\n{3,}", "\n\n", "\n".join(joined)).strip("\n")


def _docx_text(file: BytesIO) -> str:
    from docx import Document as open_docx

    check_unpacked(file)
    document = open_docx(file)
    parts = list(_blocks(document.element.body))
    for related in document.part.rels.values():
        if related.reltype.endswith(("/footnotes", "/endnotes")) and not related.is_external:
            parts += _notes(related.target_part.blob)
    return "\n\n".join(part for part in parts if part.strip())


def _notes(part: bytes) -> Iterator[str]:
    """Yield the text of footnotes or endnotes, but not of the lines that separate them."""
    from lxml import etree

    for note in etree.fromstring(part, etree.XMLParser(resolve_entities=False)):
        if note.get(f"{_W}type") in (None, "normal"):
            yield "\n".join(_blocks(note))


def _blocks(parent: _Element) -> Iterator[str]:
    """Yield the paragraphs and tables of a part of a document, whatever they are wrapped into."""
    for child in parent:
        if child.tag == f"{_W}p":
            yield from _paragraph(child)
        elif child.tag == f"{_W}tbl":
            yield "\n".join(_table_rows(child))
        elif isinstance(child.tag, str) and child.tag not in _GONE:
            yield from _blocks(child)


def _paragraph(paragraph: _Element) -> Iterator[str]:
    """Yield a paragraph's own text, then that of the text boxes in it."""
    boxes: list[_Element] = []
    yield "".join(_runs(paragraph, boxes))
    for box in boxes:
        yield from _blocks(box)


def _runs(parent: _Element, boxes: list[_Element]) -> Iterator[str]:
    """Yield the text of runs, with what was inserted and without what was deleted; text boxes are collected."""
    for child in parent:
        if child.tag == f"{_W}txbxContent":
            boxes.append(child)
        elif child.tag in (f"{_W}t", _FORMULA):
            yield child.text or ""
        elif child.tag == f"{_W}tab":
            yield "\t"
        elif child.tag in (f"{_W}br", f"{_W}cr"):
            yield "\n"
        elif child.tag == f"{_W}noBreakHyphen":
            yield "-"
        elif isinstance(child.tag, str) and child.tag not in _GONE and not _is_hidden(child):
            yield from _runs(child, boxes)


def _is_hidden(run: _Element) -> bool:
    """Whether a run is hidden text, which Word neither shows nor prints."""
    hidden = run.find(f"{_W}rPr/{_W}vanish")
    return hidden is not None and hidden.get(f"{_W}val") not in ("0", "false", "off")


def _table_rows(table: _Element) -> Iterator[str]:
    """Yield rows with tabs between their cells; a cell that goes on from the row above is blank."""
    for row in table.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is not table:
            continue  # of a table in a cell
        cells = [cell for cell in row.iter(f"{_W}tc") if next(cell.iterancestors(f"{_W}tr")) is row]
        yield "\t".join("" if _goes_on(cell) else "\n".join(filter(str.strip, _blocks(cell))) for cell in cells)


def _goes_on(cell: _Element) -> bool:
    """Whether a cell is merged with the one above it."""
    merge = cell.find(f"{_W}tcPr/{_W}vMerge")
    return merge is not None and merge.get(f"{_W}val") != "restart"


def _xlsx_text(file: BytesIO) -> str:
    from openpyxl import load_workbook

    check_unpacked(file)
    book = load_workbook(file, read_only=True, data_only=True)
    sheets = []
    for sheet in book.worksheets:
        rows = ("\t".join(map(_cell_text, row)) for row in sheet.values)
        sheets.append("\n".join(row.rstrip("\t") for row in rows if row.strip()))
    return "\n\n".join(sheet for sheet in sheets if sheet)


def _cell_text(value: object) -> str:
    """A cell as it is seen; a day without a time is stored as midnight."""
    text = "" if value is None else str(value)
    return text.removesuffix(" 00:00:00") if isinstance(value, datetime) else text


def _rtf_text(file: BytesIO) -> str:
    from striprtf.striprtf import rtf_to_text

    data = file.read()
    if not data.lstrip().startswith(b"{\\rtf"):
        raise ValueError("no RTF")
    text: str = rtf_to_text(decode_bytes(data).text, errors="ignore")
    return text
