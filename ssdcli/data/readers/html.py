"""HTML: the text that a browser would show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

from ssdcli.data.documents import Document
from ssdcli.data.readers.text import text_documents
from ssdcli.data.streams import Source

MAX_PAGE_CHARACTERS = 16 << 20

_UNSEEN = frozenset({"script", "style", "template", "noscript", "head", "svg", "iframe", "object"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "hr"})
_PARAGRAPHS = _HEADINGS | {"p", "div", "ul", "ol", "dl", "table", "pre", "blockquote", "figure", "form"}
_PARAGRAPHS |= {"section", "article", "header", "footer", "main", "aside", "nav"}
_LINES = frozenset({"br", "li", "tr", "dt", "dd", "option"})


class _Visible(HTMLParser):
    """Collects the visible text of a page, with white space collapsed as in a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unseen = ""  # the outermost hidden element that is open, with `_depth` of its kind
        self._depth = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter an element."""
        if not self._unseen and tag in _UNSEEN:
            self._unseen = tag
        self._depth += tag == self._unseen
        self._preformatted += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Pass an element without content."""
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        self._depth -= tag == self._unseen
        if self._depth == 0:
            self._unseen = ""
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        """Collect text that is not hidden."""
        if self._unseen:
            return
        if not self._preformatted:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip(" ") if not self.parts or self.parts[-1].endswith((" ", "\n")) else data
        self.parts.append(data)

    def _break(self, tag: str) -> None:
        if not self._unseen and tag in _PARAGRAPHS | _LINES:
            self.parts.append("\n\n" if tag in _PARAGRAPHS else "\n")


def visible_text(page: str) -> str:
    """The text of an HTML page with blank lines between paragraphs; ValueError if the page is broken."""
    parser = _Visible()
    try:
        parser.feed(page)
        parser.close()
    except AssertionError as error:  # the parser raises it for declarations that HTML does not have
        raise ValueError(str(error)) from error
    text = re.sub(r" +\n", "\n", "".join(parser.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_html(source: Source) -> Iterator[Document]:
    """Read an HTML page as one document, or as several if it is long; a broken or huge one is counted as skipped."""
    parts: list[str] = []
    length = 0
    for chunk in source.text():
        length += len(chunk)
        if length > MAX_PAGE_CHARACTERS:
            source.skip("HTML of more than 16 M characters")
            return
        parts.append(chunk)
    try:
        text = visible_text("".join(parts))
    except ValueError:
        source.skip("broken HTML")
        return
    yield from text_documents([text], source.name, source.report)
