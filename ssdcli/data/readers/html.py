"""HTML: the text that a browser would show, of the tree that HTML's own rules make (the library is selectolax)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ssdcli.data.documents import Document
from ssdcli.data.readers.text import text_documents
from ssdcli.data.streams import Source

Rank = tuple[int, int, int]

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

MAX_PAGE_BYTES = 16 << 20
MAX_DEPTH = 5_000  # of elements in elements, for which the library takes time by the square; browsers stop at 512

_UNSEEN = frozenset({"head", "script", "style", "template", "noscript", "iframe", "object", "audio", "video", "canvas"})
_UNSEEN |= {"datalist", "meter", "progress", "rp", "area", "base", "link", "meta", "param", "source", "track", "title"}
_UNSEEN |= {"noembed", "noframes", "annotation", "annotation-xml", "desc", "metadata", "defs"}
_APART = frozenset({"h1", "h2", "h3", "h4", "h5", "h6", "hr", "p", "ul", "ol", "dl", "table", "pre", "blockquote"})
_APART |= {"figure", "form", "fieldset"}  # a blank line before and after; the others below begin a line
_LINES = frozenset(
    {"address", "article", "aside", "body", "caption", "center", "dd", "details", "dialog", "dir", "div"}
)
_LINES |= {"dt", "figcaption", "footer", "header", "hgroup", "html", "legend", "li", "main", "menu", "nav", "optgroup"}
_LINES |= {"option", "search", "section", "select", "summary", "tbody", "textarea", "tfoot", "thead", "tr", "text"}
_SPACED = frozenset({"button", "label", "output"})  # side by side, but never one word
_PREFORMATTED = frozenset({"pre", "textarea", "listing", "xmp", "plaintext"})
_CELLS = frozenset({"td", "th"})
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"

_BLANKS = re.compile(r"[ \t\n\f\r]+")
_DISPLAY = re.compile(r"(?<![\w-])display\s*:\s*([\w-]+)", re.IGNORECASE)
_VISIBILITY = re.compile(r"(?<![\w-])visibility\s*:\s*([\w-]+)", re.IGNORECASE)
_AT_RULE = re.compile(r"@[^{};]+\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}|/\*.*?\*/", re.DOTALL)
_ON_SCREENS = re.compile(r"@media\s+(?:only\s+)?(?:screen|all)\s*\{((?:[^{}]*\{[^{}]*\})*)[^{}]*\}", re.IGNORECASE)
_BLOCKS = frozenset({"block", "flex", "grid", "list-item", "table", "flow-root"})  # values of display
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_DECLARED = re.compile(
    rb"<meta[^>]+?charset\s*=\s*[\"']?\s*([\w.:()-]+)|<\?xml[^>]+?encoding\s*=\s*[\"']([\w.:-]+)", re.I
)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_CLOSED = re.compile(rf"<(?!(?:{_VOID})\b)([A-Za-z][\w:-]*)((?:\s[^<>]*)?)/>", re.IGNORECASE)
_OPENED = re.compile(rf"<(?!(?:{_VOID}|p|li|tr|td|th|dt|dd|option|optgroup|thead|tbody|tfoot)\b)[a-z]", re.IGNORECASE)
_HIGHEST = (99, 0, 0)
_PRESCAN = 4096  # bytes, in which a page declares its encoding; the WHATWG has browsers look at 1,024


def read_html(source: Source) -> Iterator[Document]:
    """Read an HTML page as one document, or as several if it is long; a huge one is counted as skipped."""
    data = source.whole(MAX_PAGE_BYTES, "HTML of more than 16 MiB")
    if data is None:
        return
    page = source.decoded(data, declared_charset(data))
    if is_too_deep(page):
        source.skip(f"HTML nested more than {MAX_DEPTH:,} deep")
        return
    yield from text_documents([visible_text(page)], source.name, source.report)


def declared_charset(page: bytes) -> str | None:
    """The label of the encoding that a page or an XML document declares."""
    found = _DECLARED.search(_COMMENT.sub(b"", page[:_PRESCAN]))
    return None if found is None else (found[1] or found[2]).decode("ascii", "replace")


def is_too_deep(page: str) -> bool:
    """Whether more elements are open at once than any real page has, which would take the library minutes."""
    opened, closed = len(_OPENED.findall(page)), page.count("</")
    return opened - closed > MAX_DEPTH


def visible_text(page: str, left_out: Sequence[str] = ()) -> str:
    """The text of an HTML page with blank lines between paragraphs, and tabs between the cells of a table.

    left_out: CSS selectors of what is not to be shown.
    """
    from selectolax.lexbor import LexborHTMLParser

    if page.lstrip("\ufeff \n\r\t").startswith("<?xml"):
        page = _CLOSED.sub(r"<\1\2></\1>", page)  # in HTML, <title/> would begin a title
    parser = LexborHTMLParser(page)
    root = parser.root
    return "" if root is None else _shown_text(root, _Styles.of(parser, left_out))


@dataclass
class _Styles:
    """What style sheets and the caller say of nodes, by their memory ids, each with the rank of the rule that says so.

    displayed: whether a node is shown, and what is in it with it.
    visible: whether a node can be seen, which what is in it may change.
    """

    displayed: dict[int, tuple[Rank, bool]] = field(default_factory=dict)
    visible: dict[int, tuple[Rank, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, parser: LexborHTMLParser, left_out: Sequence[str]) -> _Styles:
        """What a page's own style sheets say: the more specific rule wins, and of equals the later one."""
        styles = cls()
        sheets = " ".join(style.text() for style in parser.css("style") if _is_of_screens(style))
        for selectors, body in _RULE.findall(_AT_RULE.sub("", _ON_SCREENS.sub(r"\1", sheets))):
            displayed, visible = _displayed(body), _visible(body)
            for selector in selectors.split(",") if displayed is not None or visible is not None else ():
                for node in _selected(parser, selector.strip()):
                    _tell(styles.displayed, node, _rank(selector), displayed)
                    _tell(styles.visible, node, _rank(selector), visible)
        for selector in left_out:
            for node in _selected(parser, selector):
                _tell(styles.displayed, node, _HIGHEST, False)
        return styles


def _tell(told: dict[int, tuple[Rank, bool]], node: LexborNode, rank: Rank, value: bool | None) -> None:
    """Note what a rule says of a node, unless a rule of a higher rank has said something."""
    if value is not None and rank >= told.get(node.mem_id, (rank, value))[0]:
        told[node.mem_id] = rank, value


def _rank(selector: str) -> Rank:
    """How specific a selector is: the numbers of ids, of classes and the like, and of elements in it."""
    return selector.count("#"), len(re.findall(r"[.\[:]", selector)), len(re.findall(r"(?:^|[\s>+~])\w", selector))


def _is_of_screens(sheet: LexborNode) -> bool:
    """Whether a style sheet is for screens with scripts."""
    media = (sheet.attributes.get("media") or "all").lower()
    return ("all" in media or "screen" in media) and (sheet.parent is None or sheet.parent.tag != "noscript")


def _selected(parser: LexborHTMLParser, selector: str) -> list[LexborNode]:
    try:
        return parser.css(selector)
    except Exception:  # the library does not know every selector
        return []


def _displayed(style: str) -> bool | None:
    """Whether declarations display what they are for; None if they do not say."""
    found = _DISPLAY.findall(style)
    return found[-1].lower() != "none" if found else None


def _visible(style: str) -> bool | None:
    """Whether declarations make visible what they are for; None if they do not say."""
    found = _VISIBILITY.findall(style)
    return found[-1].lower() not in ("hidden", "collapse") if found else None


@dataclass
class _Lines:
    """Text while it is laid out: pieces, and between them the line breaks that are wanted.

    cells: of the table row that is open.
    """

    parts: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    breaks: int = 0

    def flow(self, text: str) -> None:
        """Add text in which blanks are one space, and none at the beginning of a line."""
        text = _BLANKS.sub(" ", text)
        if text.startswith(" ") and (self.breaks or not self.parts or self.parts[-1].endswith((" ", "\n", "\t"))):
            text = text[1:]
        if text:
            self._put(text)

    def preformatted(self, text: str) -> None:
        """Add text as it is."""
        if text:
            self._put(text)

    def break_line(self, lines: int) -> None:
        """Want so many line ends before what comes next, if something came before."""
        self.breaks = max(self.breaks, lines if self.parts else 0)

    def line_end(self) -> None:
        """Add a line end, as <br> does."""
        self._put("")
        self.parts.append("\n")

    def _put(self, text: str) -> None:
        if self.breaks and self.parts:
            self.parts[-1] = self.parts[-1].rstrip(" ")
            ended = self.parts[-1].endswith("\n") and self.breaks == 1
            self.parts.append("\n" * (self.breaks - ended))
        self.breaks = 0
        self.parts.append(text)

    @property
    def text(self) -> str:
        """What has been laid out."""
        text = re.sub(r" +\n", "\n", "".join(self.parts).replace("\xa0", " ").replace("\xad", ""))
        return re.sub(r"\n{3,}", "\n\n", text).strip(" \n")


@dataclass(frozen=True)
class _Step:
    """A node to enter, or an element to leave.

    seen: whether text directly in it is shown: not in a drawing, outside its <text>.
    visible: whether it is seen unless it says otherwise itself.
    preformatted: whether its blanks are kept.
    """

    node: LexborNode
    seen: bool = True
    visible: bool = True
    preformatted: bool = False
    leaves: bool = False


def _shown_text(root: LexborNode, styles: _Styles) -> str:
    """The text below a node; without recursion, since pages can be as deep as they are long."""
    stack, open_cells = [_Step(root)], [_Lines()]
    while stack:
        step = stack.pop()
        node, tag, lines = step.node, _kind(step.node), open_cells[-1]
        if step.leaves:
            _leave(tag, open_cells)
        elif tag == "-text":
            if step.seen and step.visible:
                (lines.preformatted if step.preformatted else lines.flow)(node.text_content or "")
        elif not tag.startswith("-") and _is_shown(node, tag, styles):
            _enter(node, tag, open_cells)
            seen = tag in ("text", "foreignobject") or (step.seen and tag != "svg")
            visible = _is_visible(node, styles, step.visible)
            stack.append(_Step(node, leaves=True))
            inner = step.preformatted or tag in _PREFORMATTED
            children = list(node.iter(include_text=True))
            stack += [_Step(child, seen, visible, inner) for child in reversed(children)]
    return open_cells[0].text


def _kind(node: LexborNode) -> str:
    """A node's tag; that of a block for what its own style makes one, such as a link or a span."""
    tag = (node.tag or "").lower()
    if tag in ("a", "b", "em", "font", "i", "small", "span", "strong"):
        found = _DISPLAY.findall(node.attributes.get("style") or "")
        return "div" if found and found[-1].lower() in _BLOCKS else tag
    return tag


def _is_shown(node: LexborNode, tag: str, styles: _Styles) -> bool:
    if tag in _UNSEEN:
        return False
    attributes = node.attributes
    if not attributes and not styles.displayed:
        return tag != "dialog"
    displayed = _displayed(attributes.get("style") or "")
    if "hidden" in attributes or displayed is False or (tag == "dialog" and "open" not in attributes):
        return False
    return displayed is True or styles.displayed.get(node.mem_id, (_HIGHEST, True))[1]


def _is_visible(node: LexborNode, styles: _Styles, inherited: bool) -> bool:
    own = _visible(node.attributes.get("style") or "")
    return styles.visible.get(node.mem_id, (_HIGHEST, inherited))[1] if own is None else own


def _enter(node: LexborNode, tag: str, open_cells: list[_Lines]) -> None:
    lines = open_cells[-1]
    if tag in _CELLS:
        open_cells.append(_Lines())
    elif tag == "br":
        lines.line_end()
    elif tag == "rt":  # how ruby is read aloud
        lines.flow("(")
    elif tag == "input" and node.attributes.get("type") in ("submit", "button", "reset"):
        lines.flow(f" {node.attributes.get('value') or ''} ")
    else:
        _separate(tag, lines)


def _leave(tag: str, open_cells: list[_Lines]) -> None:
    if tag in _CELLS:
        text = open_cells.pop().text
        open_cells[-1].cells.append(text)
        return
    lines = open_cells[-1]
    if tag == "tr" and lines.cells:
        between = "\n" if any("\n" in cell for cell in lines.cells) else "\t"
        lines.preformatted(between.join(lines.cells if between == "\t" else filter(None, lines.cells)).rstrip("\t"))
        lines.cells.clear()
    elif tag == "rt":
        lines.flow(")")
    _separate(tag, lines)


def _separate(tag: str, lines: _Lines) -> None:
    """Part an element from what is before or after it."""
    if tag in _APART:
        lines.break_line(2)
    elif tag in _LINES:
        lines.break_line(1)
    elif tag in _SPACED:
        lines.flow(" ")
