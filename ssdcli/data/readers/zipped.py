"""Documents that are XML in a ZIP file: EPUB, OpenDocument and PowerPoint, read without further libraries."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from urllib.parse import unquote
from xml.etree import ElementTree

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import declared_charset, is_too_deep, visible_text
from ssdcli.data.readers.office import check_unpacked, read_document
from ssdcli.data.streams import Source
from ssdcli.machine.encodings import decode_bytes
from ssdcli.text.messages import BETWEEN

_PAGES = (".xhtml", ".html", ".htm")
_RELATED = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_GONE = frozenset({"tracked-changes", "annotation", "annotation-end", "sequence-decls", "forms", "notes-configuration"})


def read_epub(source: Source) -> Iterator[Document]:
    """Read the chapters of a book in their order."""
    yield from read_document(source, "EPUB", _epub_text)


def read_open_document(source: Source) -> Iterator[Document]:
    """Read a text, a sheet or a presentation of LibreOffice."""
    yield from read_document(source, "OpenDocument", _open_document_text)


def read_pptx(source: Source) -> Iterator[Document]:
    """Read the slides of a presentation, each with its notes."""
    yield from read_document(source, "PPTX", _pptx_text)


def _opened(file: BytesIO) -> zipfile.ZipFile:
    check_unpacked(file)
    return zipfile.ZipFile(file)


def _epub_text(file: BytesIO) -> str:
    book = _opened(file)
    chapters = []
    for name in _spine(book) or sorted(name for name in book.namelist() if name.lower().endswith(_PAGES)):
        data = book.read(name)
        page = decode_bytes(data, declared_charset(data)).text
        if not is_too_deep(page):
            chapters.append(visible_text(page if page.lstrip().startswith("<?xml") else f"<?xml?>{page}"))
    return BETWEEN.join(filter(None, chapters))


def _spine(book: zipfile.ZipFile) -> list[str]:
    """The names of a book's chapters in their order; none if it does not tell."""
    try:
        container = ElementTree.fromstring(book.read("META-INF/container.xml"))
        package = next(one.get("full-path", "") for one in container.iter() if _local(one) == "rootfile")
        described = ElementTree.fromstring(book.read(package))
    except (KeyError, StopIteration, ElementTree.ParseError):
        return []
    places = {one.get("id"): one.get("href", "") for one in described.iter() if _local(one) == "item"}
    order = [places.get(one.get("idref"), "") for one in described.iter() if _local(one) == "itemref"]
    found = [posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(href))) for href in order if href]
    return [name for name in found if name in book.namelist()]


def _open_document_text(file: BytesIO) -> str:
    content = _opened(file).read("content.xml")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return visible_text(decode_bytes(content, "utf-8").text)
    return BETWEEN.join(filter(str.strip, _open_blocks(root)))


def _open_blocks(parent: ElementTree.Element) -> Iterator[str]:
    """Yield paragraphs, and rows of tables with tabs between their cells."""
    for child in parent:
        kind = _local(child)
        if kind in ("p", "h"):
            yield "".join(_open_runs(child))
        elif kind == "table":
            yield "\n".join(filter(str.strip, _open_rows(child)))
        elif kind not in _GONE:
            yield from _open_blocks(child)


def _open_rows(table: ElementTree.Element) -> Iterator[str]:
    for child in table:
        if _local(child) == "table-row":
            cells = [cell for cell in child if _local(cell) in ("table-cell", "covered-table-cell")]
            yield "\t".join("\n".join(filter(None, _open_blocks(cell))) for cell in cells).rstrip("\t")
        elif _local(child).startswith("table-"):
            yield from _open_rows(child)


def _open_runs(parent: ElementTree.Element) -> Iterator[str]:
    """Yield the text of a paragraph; notes are in parentheses, as there is no foot of a page."""
    yield parent.text or ""
    for child in parent:
        kind = _local(child)
        if kind == "s":
            yield " " * int(child.get("{urn:oasis:names:tc:opendocument:xmlns:text:1.0}c", "1"))
        elif kind in ("tab", "line-break"):
            yield "\t" if kind == "tab" else "\n"
        elif kind == "note":
            yield f" ({' '.join(_open_blocks(next(part for part in child if _local(part) == 'note-body')))})"
        elif kind in ("frame", "text-box", "image", "object"):
            yield "\n".join(_open_blocks(child))
        elif kind not in _GONE:
            yield from _open_runs(child)
        yield child.tail or ""


def _pptx_text(file: BytesIO) -> str:
    deck = _opened(file)
    parts = []
    for name in _slides(deck):
        parts.append("\n".join(_slide_lines(ElementTree.fromstring(deck.read(name)))))
        for notes in _related(deck, name, "notesSlide").values():
            lines = _slide_lines(ElementTree.fromstring(deck.read(notes)))
            parts.append("\n".join(line for line in lines if not line.strip().isdigit()))
    return BETWEEN.join(filter(None, parts))


def _slides(deck: zipfile.ZipFile) -> list[str]:
    """The names of a deck's slides in their order: the numbers in them are those in which they were made."""
    found = [name for name in deck.namelist() if re.fullmatch(r"ppt/slides/slide\d+\.xml", name)]
    found.sort(key=lambda name: int(re.sub(r"\D", "", name)))
    related = _related(deck, "ppt/presentation.xml", "slide")
    if related:
        show = ElementTree.fromstring(deck.read("ppt/presentation.xml"))
        shown = [related.get(one.get(_RELATED, "")) for one in show.iter() if _local(one) == "sldId"]
        found.sort(key=lambda name: shown.index(name) if name in shown else len(shown))
    return found


def _related(deck: zipfile.ZipFile, name: str, kind: str) -> dict[str, str]:
    """The parts of one kind, by their ids, that a part of a deck refers to."""
    folder, _, file = name.rpartition("/")
    try:
        links = ElementTree.fromstring(deck.read(f"{folder}/_rels/{file}.rels"))
    except KeyError:
        return {}
    found = {
        link.get("Id", ""): posixpath.normpath(posixpath.join("/" + folder, link.get("Target", "")))[1:]
        for link in links
        if link.get("Type", "").endswith("/" + kind)
    }
    return {identity: part for identity, part in found.items() if part in deck.namelist()}


def _slide_lines(parent: ElementTree.Element) -> Iterator[str]:
    """Yield the paragraphs on a slide, and rows of tables with tabs between their cells."""
    for child in parent:
        kind = _local(child)
        if kind == "p":
            line = "".join(_slide_run(run) for run in child.iter())
            if line.strip():
                yield line
        elif kind == "tr":
            yield "\t".join(" ".join(_slide_lines(cell)) for cell in child if _local(cell) == "tc")
        elif kind != "Fallback":
            yield from _slide_lines(child)


def _slide_run(run: ElementTree.Element) -> str:
    return (run.text or "") if _local(run) == "t" else "\n" if _local(run) == "br" else ""


def _local(element: ElementTree.Element) -> str:
    """A tag without its namespace."""
    return element.tag.rpartition("}")[2]
