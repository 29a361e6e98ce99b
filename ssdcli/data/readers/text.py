"""Plain text, and what readers of all formats share: splitting long texts, and leaving out what is no text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.streams import Source, cut_text

_LINKED = re.compile(
    r"!\[([^\]\n]*)\]\(\s*<?data:[^)]*\)"  # in Markdown
    r"|^\[[^\]\n]*\]:\s*<?data:\S*>?[ \t]*$"  # in Markdown, below the text
    r"|data:[\w.+/-]*(?:;[\w=-]+)*;base64,[A-Za-z0-9+/=%]*",
    re.MULTILINE,
)
_PIECE = 1 << 14  # characters
_SHORTEST = 60  # characters of a line in base64
_UUENCODED = re.compile(r"^begin [0-7]{3} [^\n]+\n(?:[ -`]{1,62}\n)+end$", re.MULTILINE)  # as in old mails
_RUN = re.compile(rf"(?:[A-Za-z0-9+/]{{{_SHORTEST},}}\n){{5,}}[A-Za-z0-9+/]*={{0,2}}|[A-Za-z0-9+/]{{400,}}={{0,2}}")


def without_pictures(text: str, place: str, report: ReadReport) -> str:
    """A text without what is in base64, which is counted; a picture's description stays."""
    found = 0

    def left(match: re.Match[str]) -> str:
        nonlocal found
        linked = match.re is _LINKED
        if match.re is _RUN and not _is_encoded(match[0]):
            return match[0]
        found += 1
        return (match[1] or "") if linked else ""

    if "data:" in text:
        text = _LINKED.sub(left, text)
    if "begin " in text:
        text = _UUENCODED.sub(left, text)
    if _has_long_word(text):  # which most texts lack; the search itself takes long
        text = _RUN.sub(left, text)
    for _ in range(found):
        report.skip("base64 in a text", place, "picture")
    return text


def _has_long_word(text: str) -> bool:
    """Whether so many characters as a line in base64 has stand without a blank; looked at in pieces that overlap."""
    pieces = (text[start : start + _PIECE + _SHORTEST] for start in range(0, len(text), _PIECE))
    return any(max(map(len, piece.split()), default=0) >= _SHORTEST for piece in pieces)


def _is_encoded(run: str) -> bool:
    """Whether a long run without blanks is no word, number or sequence of letters."""
    kinds = (str.isupper, str.islower, str.isdigit)
    return all(any(kind(character) for character in run) for kind in kinds)


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
