"""The text of a mail's body as its reader sees it: flowed lines joined, quoted replies and signatures left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

QUOTES_IN_HTML = (
    "blockquote[type=cite]",
    "blockquote.gmail_quote",
    ".gmail_attr",
    ".gmail_signature",
    ".moz-cite-prefix",
    ".moz-signature",
    ".yahoo_quoted",
    "#divRplyFwdMsg ~ *",
    "#divRplyFwdMsg",
    "#Signature",
)

_MOST_OF_A_SIGNATURE = 12  # lines; what follows a longer one is text again
_ATTRIBUTION_LINES = 3
_SIGNATURE = re.compile(r"-- ?")
_SIGNED = re.compile(r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:\w+: [^\n]*\n)*\n?", re.MULTILINE)
_ARMOUR = re.compile(
    rf"{_SIGNED.pattern}|^-----BEGIN PGP SIGNATURE-----$.*?(?:^-----END PGP SIGNATURE-----\n?|\Z)",
    re.MULTILINE | re.DOTALL,
)
_WROTE = re.compile(
    r"\b(wrote|writes|said|schrieb|écrit|a écrit|escribió|escreveu|ha scritto|schreef|skrev|napisał\w*|kirjoitti"
    r"|napsal\w*|írta|пиш\w+|написал\w*|писал\w*)\b|写道|のメール|님이|@|\b(19|20)\d\d\b",
    re.IGNORECASE,
)
_RULE_LINE = re.compile(r"\s*(-{3,}\s*\S.{2,60}\S\s*-{3,}|_{10,}|Begin forwarded message:)\s*")
_FORWARD = re.compile(r"forward|weitergeleitet|transféré|reenviado|inoltrato|doorgestuurd|переслан|转发", re.IGNORECASE)
_HEADER = re.compile(r"[*>\s]*\*?([A-ZÄÖÜÀ-ÝА-Я][\w\u00c0-\u04ff-]{1,14}( \w{2,8})?):\*?(\s.*|)")
_FEWEST_HEADERS = 3
_SENDER = re.compile(
    r"[*>\s]*\*?(From|Von|De|Da|Van|Från|Fra|Od|От|Від|Feladó|Kimden|Lähettäjä|Expéditeur|Remitente)\b"
)


def reflowed(text: str, delete_space: bool) -> str:
    """Join the soft line breaks of format=flowed (RFC 3676).

    delete_space: whether the space before a soft break goes with it (DelSp).
    """
    lines: list[tuple[int, str]] = []
    soft = False
    for line in text.split("\n"):
        content = line.lstrip(">")
        depth = len(line) - len(content)
        content = content.removeprefix(" ")  # the space with which a line is stuffed
        if soft and lines[-1][0] == depth and content != "-- ":
            before = lines[-1][1]
            lines[-1] = (depth, (before[:-1] if delete_space else before) + content)
        else:
            lines.append((depth, content))
        soft = content.endswith(" ") and content != "-- "
    return "\n".join(">" * depth + (" " if depth else "") + content for depth, content in lines)


def without_armour(text: str) -> str:
    """A text without the lines that OpenPGP puts around what is signed (RFC 9580, section 7)."""
    if "-----BEGIN PGP SIGN" not in text:
        return text
    signed = _SIGNED.search(text)
    text = _ARMOUR.sub("", text)
    return text if signed is None else re.sub(r"^- (?=-)", "", text, flags=re.MULTILINE)


def without_quotes(text: str) -> str:
    """A body without quoted replies, the lines that announce them, and the signature; forwarded text stays."""
    lines = text.split("\n")
    kept: list[str] = []
    place = 0
    while place < len(lines):
        line = lines[place]
        if _SIGNATURE.fullmatch(line):
            place = _signature_end(lines, place)
        elif line.startswith(">"):
            _drop_attribution(kept)
            place += 1
        elif headers := _header_block(lines, place):
            if not _FORWARD.search(line):
                break  # the mail that is answered follows
            place += headers
        else:
            kept.append(line)
            place += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).rstrip() + "\n" * text.endswith("\n")


def _signature_end(lines: Sequence[str], start: int) -> int:
    """Where the text goes on after a signature: at the end, or after a blank line if what follows is long."""
    if len(lines) - start <= _MOST_OF_A_SIGNATURE:
        return len(lines)
    blank = (place for place in range(start + 1, len(lines)) if not lines[place].strip())
    return next(blank, len(lines))


def _drop_attribution(kept: list[str]) -> None:
    """Remove the lines before a quotation that say who wrote it and when."""
    end = len(kept)
    while end and not kept[end - 1].strip():
        end -= 1
    if not end or not kept[end - 1].rstrip().endswith((":", "：")):
        return
    for start in range(end - 1, max(end - 1 - _ATTRIBUTION_LINES, -1), -1):
        begins = start == 0 or not kept[start - 1].strip()
        if begins and _WROTE.search(" ".join(kept[start:end])):
            del kept[start:]
            return


def _header_block(lines: Sequence[str], start: int) -> int:
    """How many lines a block of headers in a body takes, with the rule above it; none if none begins here."""
    ruled = bool(_RULE_LINE.fullmatch(lines[start]))
    place = start + ruled
    while ruled and place < len(lines) and not lines[place].strip():
        place += 1
    first = place
    while place < len(lines) and _HEADER.fullmatch(lines[place]):
        place += 1
    found = place - first
    has_address = any("@" in line or re.search(r"\b(19|20)\d\d\b", line) for line in lines[first:place])
    # Without a rule above it, a list such as "Date: 3 May 2026" and "Place: town hall" is text.
    is_mail = ruled or any(_SENDER.match(line) for line in lines[first:place])
    return place - start if is_mail and has_address and found >= (2 if ruled else _FEWEST_HEADERS) else 0
