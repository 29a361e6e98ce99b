"""Pages of HTML that need nothing but themselves: elements, tables, and one style for screens, phones and paper."""

from __future__ import annotations

import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

from ssdcli.reports.charts import STYLE as CHARTS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser fetches nothing for it and runs nothing in it
_UNFIT = ("Cc", "Cs")  # control characters, and halves of pairs

_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #1a1f27; --quiet: #5d6673; --rule: #dfe3e8; --accent: #2459d3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0b0e12; --card: #12161c; --ink: #eef1f5; --quiet: #a3adba; --rule: #2b333d; --accent: #84aaff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere;
}
main { max-width: 48rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.3rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; }
.quiet { color: var(--quiet); }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0; }
.figures div { flex: 1 1 9rem; }
.figures div, pre, article {
  padding: .6rem .8rem; background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
}
.figures dt { color: var(--quiet); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; }
svg { display: block; width: 100%; height: auto; }
table { width: 100%; margin: 1rem 0; border-collapse: collapse; background: var(--card); font-size: .95rem; }
caption { padding: .25rem 0; color: var(--quiet); text-align: left; }
th, td { padding: .35rem .6rem; border: 1px solid var(--rule); text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 400; }
summary { color: var(--accent); cursor: pointer; }
pre, .text { white-space: pre-wrap; }
article { margin: 1rem 0; }
article h3, article h4 { margin: 0 0 .25rem; color: var(--quiet); font-size: .85rem; font-weight: 600; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .75rem; }
.beside div { flex: 1 1 12rem; }
.beside p { margin: 0; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--quiet); }
@media (max-width: 34rem) {
  .ssd-chart { font-size: 18px; }
  .ssd-chart .title { font-size: 24px; }
}
@media print {
  body { background: none; font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, article, .figures div, tr { break-inside: avoid; }
  h2, h3, h4 { break-after: avoid; }
}
"""


def node(tag: str, attributes: Mapping[str, str], *children: ET.Element | str) -> ET.Element:
    """An element around texts and other elements; a text is shown as it is, whatever it holds."""
    element = ET.Element(tag, dict(attributes))
    last: ET.Element | None = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + _clean(child)
        else:
            last.tail = (last.tail or "") + _clean(child)
    return element


def paragraph(*children: ET.Element | str) -> ET.Element:
    """A paragraph."""
    return node("p", {}, *children)


def section(heading: str, *children: ET.Element) -> ET.Element:
    """A part of a page under a heading."""
    return node("section", {}, node("h2", {}, heading), *children)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> ET.Element:
    """A table, the first cell of each row heading it; without a head where the header is empty."""
    titles = [node("th", {"scope": "col"}, title) for title in header]
    head = [node("thead", {}, node("tr", {}, *titles))] if titles else []
    body = [
        node("tr", {}, node("th", {"scope": "row"}, first), *(node("td", {}, cell) for cell in cells))
        for first, *cells in rows
    ]
    return node("table", {}, node("caption", {}, caption), *head, node("tbody", {}, *body))


def figure(picture: ET.Element, caption: str) -> ET.Element:
    """A picture and what to see in it."""
    return node("figure", {}, picture, node("figcaption", {"class": "quiet"}, caption))


def page(title: str, *children: ET.Element) -> str:
    """The text of an HTML file."""
    head = node(
        "head",
        {},
        node("meta", {"charset": "utf-8"}),
        node("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        node("meta", {"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        node("title", {}, title),
        node("style", {}, _STYLE + CHARTS),
    )
    root = node("html", {"lang": "en"}, head, node("body", {}, node("main", {}, *children)))
    return "<!doctype html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"


def _clean(text: str) -> str:
    """The text without what a file or a page could not hold."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _UNFIT else "\ufffd" for c in text)
