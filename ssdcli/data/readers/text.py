"""Plain text, and what readers of all formats share: splitting long texts, and cleaning line ends and surrogates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.pictures import without_pictures
from ssdcli.data.streams import Source, cut_text

_SURROGATES = re.compile("[\ud800-\udfff]")


def read_text(source: Source) -> Iterator[Document]:
    """Read a plain text as one document, or as several if it is long."""
    yield from text_documents(source.text(), source.name, source.report)


def text_documents(chunks: Iterable[str], name: str, report: ReadReport) -> Iterator[Document]:
    """Join a text's chunks into one document, or into several if it is long; blank ones are left out."""
    line = 1
    for whole in cut_text(chunks):
        text = without_pictures(whole, name, report)
        if not text.isspace() and text:
            document = Document(text, name, line=line)
            report.add(document)
            yield document
        line += whole.count("\n")


def clean(text: str, place: str, report: ReadReport) -> str:
    """A text with LF line ends; lone surrogates, which JSON can spell and UTF-8 cannot, are replaced."""
    text, surrogates = _SURROGATES.subn("\ufffd", text)
    report.replace(surrogates, place)
    return text.replace("\r\n", "\n").replace("\r", "\n")
