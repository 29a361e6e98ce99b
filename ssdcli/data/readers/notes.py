"""Notes and notebooks: Markdown as Obsidian writes it, Org, Evernote exports and Jupyter notebooks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import chain
from xml.etree import ElementTree

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import visible_text
from ssdcli.data.readers.text import clean, read_text, text_documents
from ssdcli.data.row_forms import Unfit, content
from ssdcli.data.streams import MAX_DOCUMENT_CHARACTERS, Source
from ssdcli.text.messages import BETWEEN

MAX_BYTES = 256 << 20  # of an export or a notebook

_FRONT = re.compile(r"---[ \t]*\n(?P<lines>(?:[^\n]*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_KEYED = re.compile(r"[\w -]+:(\s|$)|\s|-\s|#|$")  # a line of front matter, so that a rule above text is none
_EMBED = re.compile(r"!\[\[[^\]\n]*\]\]")
_LINK = re.compile(r"\[\[(?:[^\]|\n]*\|)?([^\]|\n]+)\]\]")
_COMMENT = re.compile(r"%%.*?%%", re.DOTALL)
_DRAWER = re.compile(r"^[ \t]*:(PROPERTIES|LOGBOOK):[ \t]*\n.*?^[ \t]*:END:[ \t]*\n?", re.DOTALL | re.MULTILINE)
_ORG_TITLE = re.compile(r"#\+TITLE:[ \t]*", re.IGNORECASE)
_ORG_SETTING = re.compile(r"[ \t]*#(?:\+\w+(?:\[.*\])?:.*|[ \t].*|)")  # and comments
_ORG_BLOCK = re.compile(r"[ \t]*#\+(?P<edge>begin|end)_(?P<kind>\w+).*", re.IGNORECASE)
_ORG_LINK = re.compile(r"\[\[([^\]\n]+)\](?:\[([^\]\n]+)\])?\]")


def read_markdown(source: Source) -> Iterator[Document]:
    """Read Markdown without its front matter, comments and embedded files; a link to a note is the note's name."""
    chunks = source.text()
    held = ""
    for chunk in chunks:
        held += chunk
        if len(held) > MAX_DOCUMENT_CHARACTERS:
            break
    front = _FRONT.match(held)
    if front is not None and all(_KEYED.match(line) for line in front["lines"].splitlines()):
        held = held[front.end() :].lstrip("\n")
        if "excalidraw-plugin:" in front["lines"]:
            source.skip("Excalidraw, a drawing")
            return
    if "[[" in held or "%%" in held:
        held = _LINK.sub(r"\1", _EMBED.sub("", _COMMENT.sub("", held)))
    yield from text_documents(chain([held], chunks), source.name, source.report)


def read_org(source: Source) -> Iterator[Document]:
    """Read an Org file as it is exported: without drawers, settings and comments; a link is what it is called."""
    for document in read_text(source):
        text = "\n".join(_org_lines(_DRAWER.sub("", document.text).split("\n")))
        changed = replace(document, text=text) if text.strip() else None
        source.report.amend(document, changed)
        if changed is not None:
            yield changed


def _org_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines without markup; what is in a block is kept as it is, but for comments and what is for one format."""
    block = ""
    for line in lines:
        edge = _ORG_BLOCK.fullmatch(line)
        if edge is not None:
            block = edge["kind"].lower() if edge["edge"].lower() == "begin" else ""
        elif block in ("src", "example"):
            yield line
        elif block not in ("comment", "export"):
            title = _ORG_TITLE.sub("", line, count=1) if _ORG_TITLE.match(line) else None
            if title is not None or not _ORG_SETTING.fullmatch(line):
                yield _ORG_LINK.sub(lambda link: link[2] or link[1], line if title is None else title)


def read_notebook(source: Source) -> Iterator[Document]:
    """Read the text and the code of a Jupyter notebook, without outputs."""
    data = source.whole(MAX_BYTES, "notebook of more than 256 MiB")
    if data is None or not data.strip():
        return
    try:
        notebook = json.loads(source.decoded(data))
        sheets = notebook.get("worksheets", [notebook])
        cells = [cell for sheet in sheets for cell in sheet["cells"] if cell.get("cell_type") != "raw"]
        texts = ["".join(cell.get("source", cell.get("input", ""))) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        source.skip("broken notebook")
        return
    text = BETWEEN.join(text.rstrip("\n") for text in texts if text.strip())
    yield from text_documents([clean(text, source.name, source.report)], source.name, source.report)


def read_enex(source: Source) -> Iterator[Document]:
    """Read each note of an Evernote export: its title and its text, without attachments."""
    data = source.whole(MAX_BYTES, "ENEX of more than 256 MiB")
    if data is None:
        return
    number = 0
    try:
        for _, element in ElementTree.iterparse(BytesIO(data)):
            if element.tag != "note":
                continue
            number += 1
            text = visible_text(element.findtext("content") or "")
            title = (element.findtext("title") or "").strip()
            place = f"{source.name}:{number}"
            whole = BETWEEN.join(part for part in (title, text) if part.strip())
            if text.strip():
                yield from text_documents([clean(whole, place, source.report)], place, source.report)
            else:
                source.report.skip("note without text", place, "note")
            element.clear()
    except ElementTree.ParseError:
        source.report.skip("broken ENEX", source.name)


def note_text(value: object) -> str:
    """The text of a note's field, blank where it has none."""
    try:
        return "" if value is None else content(value)
    except Unfit:
        return ""
