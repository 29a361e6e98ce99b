"""Email: single mails, and the mails of an mbox file as mail programs write it, one at a time."""

from __future__ import annotations

import email
import email.policy
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from email.message import Message
from itertools import chain, pairwise

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import declared_charset, is_too_deep, visible_text
from ssdcli.data.readers.mail_body import QUOTES_IN_HTML, reflowed, without_armour, without_quotes
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.streams import Source
from ssdcli.machine.encodings import decode_bytes, true_codec
from ssdcli.text.messages import BETWEEN

MAX_MAIL_BYTES = 16 << 20
_LARGER = "mail of more than 16 MiB"

_PARTING = re.compile(rb"(\r?\n)\r?\n\Z")  # the blank line after a message is not part of it
_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)
_POSTMARK = re.compile(rb"From \S.*\d{1,2}:\d\d.*\b\d{4}\b")  # From ada@example.org Thu Jan  1 00:00:00 2026
_ASCTIME = re.compile(rb".* (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*\d{1,2}:\d\d.*\b\d{4}\b")  # no sentence has that
_BARE = re.compile(rb"From(?: \S+)?\s*")  # as some programs write it, without a date
_HEADER = re.compile(rb"[!-9;-~]+:(?:[ \t\r\n]|\S)|>+From ")
_HEADER_LINE = re.compile(r"([A-Za-z][A-Za-z0-9-]*):(?:\s.*|)")
_FEWEST_HEADERS = 3


class _Encrypted(Exception):
    """A mail that only its receiver can read."""


def read_mbox(source: Source) -> Iterator[Document]:
    """Read the mails of an mbox; those without text, broken and huge ones are counted."""
    number = 0
    for number, mail in enumerate(_mails(source.chunks), 1):
        unescaped = _ESCAPED.sub(rb"\1", _PARTING.sub(rb"\1", mail))
        yield from _mail_documents(unescaped, source, f"{source.name}:{number}")
    if number == 0:
        source.skip("an mbox without mails")


def read_mail(source: Source) -> Iterator[Document]:
    """Read a file that is one mail."""
    mail = source.whole(MAX_MAIL_BYTES, _LARGER)
    if mail is not None and mail.strip():
        yield from _mail_documents(mail, source, source.name)


def read_emlx(source: Source) -> Iterator[Document]:
    """Read a mail of Apple Mail: its length on a line, the mail, and a property list."""
    data = source.whole(MAX_MAIL_BYTES, _LARGER)
    length, _, rest = (data or b"").partition(b"\n")
    if length.strip().isdigit():
        yield from _mail_documents(rest[: int(length)], source, source.name)
    elif data is not None:
        source.skip("broken mail")


def read_mhtml(source: Source) -> Iterator[Document]:
    """Read a web page that a browser saved as one file, which has the form of a mail; its quotations are text."""
    yield from read_mail(replace(source, reading=replace(source.reading, quotes=True)))


def is_mbox(head: bytes) -> bool:
    """Whether first bytes are those of an mbox: a postmark and then a header."""
    first, _, rest = head.removeprefix(BOM_UTF8).partition(b"\n")
    return bool(_POSTMARK.match(first) or _BARE.fullmatch(first)) and bool(_HEADER.match(rest))


def is_mail(head: bytes) -> bool:
    """Whether first bytes are the headers of a mail, as in a Maildir, where names have no suffix."""
    block = re.split(rb"\r?\n\r?\n", head.removeprefix(BOM_UTF8), maxsplit=1)[0].decode("latin-1")
    names = set()
    for line in block.splitlines():
        found = _HEADER_LINE.fullmatch(line)
        if found:
            names.add(found[1].lower())
        elif not names or not line.startswith((" ", "\t")):
            return False
    sent = names & {"date", "received", "message-id", "return-path", "delivered-to", "mime-version"}
    return len(names) >= _FEWEST_HEADERS and bool(sent) and bool(names & {"from", "received", "return-path"})


def _mail_documents(mail: bytes, source: Source, place: str) -> Iterator[Document]:
    report = source.report
    if len(mail) > MAX_MAIL_BYTES:
        report.skip(_LARGER, place, "mail")
        return
    try:
        message = email.message_from_bytes(mail.removeprefix(BOM_UTF8), policy=email.policy.compat32)
        texts = list(_Body(source, place).texts(message))
    except _Encrypted:
        report.skip("encrypted mail", place, "mail")
        return
    except Exception:  # the library raises many kinds of errors for malformed messages
        report.skip("broken mail", place, "mail")
        return
    parts = [text.strip("\n") for text in texts if text.strip()]
    # Each part by itself: what a signature or an answered mail ends in one part does not end the next.
    kept = parts if source.reading.quotes else [without_quotes(part) for part in parts]
    if any(text.strip() != part.strip() for text, part in zip(kept, parts, strict=True)):
        report.skip("quoted replies and signatures, which --quotes keeps", place, "passage")
    text = BETWEEN.join(text for text in kept if text.strip())
    if text:
        yield from text_documents([clean(text, place, report).rstrip() + "\n"], place, report)
    elif not parts:
        report.skip("mail without text", place, "mail")


@dataclass(frozen=True)
class _Body:
    """Finds the texts in a mail.

    source: how it is read, and where attachments are counted.
    place: of the mail.
    """

    source: Source
    place: str

    def texts(self, part: Message) -> Iterator[str]:
        """Yield the texts of a part in their order; _Encrypted if they cannot be read."""
        kind = part.get_content_type()
        if kind in ("multipart/encrypted", "application/pkcs7-mime"):
            raise _Encrypted
        if part.is_multipart():
            yield from self._several(part, kind)
        elif part.get_content_disposition() == "attachment" or not kind.startswith(("text/", "multipart/")):
            self.source.report.skip("attached to a mail", self.place, "attachment")
        elif kind in ("text/html", "text/enriched", "text/richtext"):
            yield self._page(part)
        elif kind not in ("text/calendar", "text/css", "text/x-amp-html", "text/vcard", "text/rfc822-headers"):
            yield self._plain(part)

    def _several(self, part: Message, kind: str) -> Iterator[str]:
        inner: list[Message] = [one for one in part.get_payload() if isinstance(one, Message)]
        if kind == "message/delivery-status":
            return
        if kind == "multipart/related":
            yield from self.texts(inner[0])
        elif kind == "multipart/alternative":
            yield self._best(inner)
        else:  # a mail in a mail, too
            yield from chain.from_iterable(map(self.texts, inner))

    def _best(self, alternatives: list[Message]) -> str:
        """The plain text if it is not blank, else what the next alternative shows."""
        for part in sorted(alternatives, key=lambda part: part.get_content_type() != "text/plain"):
            text = BETWEEN.join(self.texts(part))
            if text.strip():
                return text
        return ""

    def _decoded(self, part: Message, declared: str | None) -> str:
        data = part.get_payload(decode=True)
        found = decode_bytes(data if isinstance(data, bytes) else b"", declared)
        if declared is None:
            self.source.report.decoded(found, self.place, "mail")
        else:
            self.source.report.replace(found.replaced, self.place)
        return found.text.replace("\r\n", "\n").replace("\r", "\n")

    def _plain(self, part: Message) -> str:
        text = without_armour(self._decoded(part, _parameter(part, "charset")))
        if text.lstrip().startswith("-----BEGIN PGP MESSAGE-----"):
            raise _Encrypted
        if (_parameter(part, "format") or "").lower() != "flowed":
            return text
        return reflowed(text, (_parameter(part, "delsp") or "").lower() == "yes")

    def _page(self, part: Message) -> str:
        data = part.get_payload(decode=True)
        declared = _parameter(part, "charset")
        if isinstance(data, bytes) and true_codec(data, declared) is None:
            declared = declared_charset(data) or declared
        page = self._decoded(part, declared)
        return "" if is_too_deep(page) else visible_text(page, () if self.source.reading.quotes else QUOTES_IN_HTML)


def _parameter(part: Message, name: str) -> str | None:
    """A parameter of the content type, such as the charset; None if it is missing or cannot be read."""
    try:
        value = part.get_param(name)
    except (LookupError, ValueError):
        return None
    return value[2] if isinstance(value, tuple) else value


def _mails(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the messages without their postmarks; one that is too long is cut just past the limit."""
    held, blank, begun = bytearray(), True, False
    lines = _lines(chunks)
    first = next(lines, b"").removeprefix(BOM_UTF8)
    for line, following in pairwise(chain([first], lines, [b"\n"])):
        if line.startswith(b"From ") and _is_postmark(line, following, blank, begun):
            if begun:
                yield bytes(held)
            held.clear()
            begun = True
        elif len(held) <= MAX_MAIL_BYTES:
            held += line
        blank = line in (b"\n", b"\r\n")
    if begun:
        yield bytes(held)


def _is_postmark(line: bytes, following: bytes, after_blank: bool, begun: bool) -> bool:
    """Whether a line that begins with "From " begins a mail; in a body it may be a sentence, or lack its escape."""
    if not begun:
        return True
    if _POSTMARK.match(line):  # some programs leave the blank line before it out
        return bool(_HEADER.match(following)) or (after_blank and bool(_ASCTIME.match(line)) and not following.strip())
    return after_blank and bool(_BARE.fullmatch(line)) and bool(_HEADER.match(following))


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their line ends; one that is longer than a message may be comes in pieces."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).splitlines(keepends=True) or [b""]
        yield from lines
        if len(rest) > MAX_MAIL_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest
