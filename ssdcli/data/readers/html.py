"""The text that a reader of an HTML page sees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.formats import text_documents

MAX_PAGE_CHARACTERS = 16 << 20

_UNSEEN = frozenset({"script", "style", "template", "noscript", "head", "svg", "iframe", "object"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "hr"})
_PARAGRAPHS = _HEADINGS | {"p", "div", "ul", "ol", "dl", "table", "pre", "blockquote", "figure", "form"}
_PARAGRAPHS |= {"section", "article", "header", "footer", "main", "aside", "nav"}
_LINES = frozenset({"br", "li", "tr", "dt", "dd", "option"})


class _Visible(HTMLParser):
    """Collects what is seen of a page: paragraphs apart, white space as it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._unseen = ""  # the element that hides what is in it, which is open so often
        self._depth = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        if not self._unseen and tag in _UNSEEN:
            self._unseen = tag
        self._depth += tag == self._unseen
        self._preformatted += tag == "pre"
        self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See an element that has nothing in it."""
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        self._depth -= tag == self._unseen
        if self._depth == 0:
            self._unseen = ""
        self._preformatted = max(0, self._preformatted - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        """Take text over unless it is hidden."""
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
    """The text of an HTML page, its paragraphs parted by blank lines. Raises ValueError when it is broken."""
    parser = _Visible()
    try:
        parser.feed(page)
        parser.close()
    except AssertionError as error:  # what the parser raises at declarations that no HTML has
        raise ValueError(str(error)) from error
    text = re.sub(r" +\n", "\n", "".join(parser.parts))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def page_documents(chunks: Iterable[str], name: str, report: ReadReport) -> Iterator[Document]:
    """An HTML page as one document, or several when it is long; a broken or huge one is counted."""
    parts: list[str] = []
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > MAX_PAGE_CHARACTERS:
            report.skip("HTML of more than 16 M characters", name)
            return
        parts.append(chunk)
    try:
        text = visible_text("".join(parts))
    except ValueError:
        report.skip("broken HTML", name)
        return
    yield from text_documents([text], name, report)
