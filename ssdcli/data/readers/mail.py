"""Email: the messages of an mbox file (RFC 4155), one at a time."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterable, Iterator

from ssdcli.data.documents import Document
from ssdcli.data.readers.html import visible_text
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.streams import Source

MAX_MAIL_BYTES = 16 << 20

_PARTING = re.compile(rb"(\r?\n)\r?\n\Z")  # the blank line after a message is not part of it
_ESCAPED = re.compile(r"^>(>*From )", re.MULTILINE)


def read_mbox(source: Source) -> Iterator[Document]:
    """Read the text of each message, or that of its HTML; messages without text, broken and huge ones are counted."""
    number, report = 0, source.report
    for number, mail in enumerate(_mails(source.chunks), 1):
        place = f"{source.name}:{number}"
        if len(mail) > MAX_MAIL_BYTES:
            report.skip("mail of more than 16 MiB", place, "mail")
            continue
        try:
            text = _body(mail)
        except Exception:  # the library raises many kinds of errors for malformed messages
            report.skip("broken mail", place, "mail")
            continue
        if not text.strip():
            report.skip("mail without text", place, "mail")
        else:
            yield from text_documents([clean(text, place, report)], place, report)
    if number == 0:
        source.skip("an mbox without mails")


def _mails(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the messages without their `From ` lines; one that is too long is cut just past the limit."""
    held, blank, begun = bytearray(), True, False
    for line in _lines(chunks):
        if blank and line.startswith(b"From "):
            if begun:
                yield bytes(held)
            held.clear()
            begun = True
        elif len(held) <= MAX_MAIL_BYTES:
            held += line
        blank = line in (b"\n", b"\r\n")
    if begun:
        yield bytes(held)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their line ends; one that is longer than a message may be comes in pieces."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        yield from lines
        if len(rest) > MAX_MAIL_BYTES:
            yield rest
            rest = b""
    yield rest


def _body(mail: bytes) -> str:
    """The text of a message, quoted replies included; empty if it is neither text nor HTML."""
    message = email.message_from_bytes(_PARTING.sub(rb"\1", mail), policy=email.policy.default)
    body = message.get_body(("plain", "html"))
    if body is None:
        return ""
    content: str = body.get_content()
    return visible_text(content) if body.get_content_subtype() == "html" else _ESCAPED.sub(r"\1", content)
