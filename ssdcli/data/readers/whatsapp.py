"""WhatsApp's exports: text with a date, a time and a name before each message."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ssdcli.data.documents import Document
from ssdcli.data.readers.chats import Said, chat_documents
from ssdcli.data.streams import NumberedLines, Source

_LINE = re.compile(
    r"[\u200e\u202a]*\[?(?P<a>\d{1,4})[./-](?P<b>\d{1,2})[./-](?P<c>\d{1,4}),?\s"
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d\d)(?:[:.]\d\d)?(?:[\s\u202f]?(?P<half>[AaPp])\.?\s?[Mm]\.?)?(?:\]|\s[-–]|:)\s"
    r"(?:[\u200e\u202a]*(?P<name>[^:\n]{1,60}?):\s?)?(?P<text>.*)"
)
_NO_TEXT = re.compile(
    r"\u200e?<?(media omitted|medien ausgeschlossen|médias omis|multimedia omitido|"
    r"(image|video|audio|sticker|gif|document|contact card) omitted|null|this message was deleted\.?|"
    r"you deleted this message\.?)>?|\u200e?<attached: .*>|.*\(file attached\)",
    re.IGNORECASE,
)
_EDITED = re.compile(r"\s?\u200e?<This message was edited>$")
_SEEN = 6  # lines by which an export is known


def is_whatsapp(head: bytes) -> bool:
    """Whether first bytes are those of an export: most of the first lines begin with a date, some with a name.

    Between a time and a name are a bracket, a dash or a colon: a diary and the log of a program have none.
    """
    lines = [line for line in head.decode("utf-8", "replace").lstrip("\ufeff").splitlines()[:_SEEN] if line.strip()]
    found = [match for line in lines if (match := _LINE.fullmatch(line))]
    return len(found) >= max(2, len(lines) / 2) and any(match["name"] for match in found)


def read_whatsapp(source: Source) -> Iterator[Document]:
    """Read a chat; what WhatsApp itself says, and pictures, are no messages."""
    lines = NumberedLines(source.text(), source.name, source.report)
    yield from chat_documents(list(_messages(lines)), source.name, source)


def _messages(lines: Iterable[str]) -> Iterator[Said]:
    """Yield the messages; a line without a date goes on with the one before."""
    held: Said | None = None
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            if held is not None:
                held = Said(held.names, f"{held.text}\n{line}", held.when)
            continue
        if held is not None:
            yield held
        # WhatsApp puts a mark before what it says itself, such as that a picture is left out.
        own = found["name"] is None or found["text"].startswith("\u200e") or _NO_TEXT.fullmatch(found["text"].strip())
        text = "" if own else _EDITED.sub("", found["text"])
        held = Said(((found["name"] or "").lstrip("~ \u202f\xa0"),), text, _when(found))
    if held is not None:
        yield held


def _when(found: re.Match[str]) -> float:
    """Seconds of a message since some day; the order of day and month, which the formats share, hardly matters."""
    first, second, third = (int(found[key]) for key in "abc")
    year, month, day = (first, second, third) if first > 31 else (third, second, first)
    hour = int(found["hour"]) % 12 + 12 * (found["half"] in "Pp") if found["half"] else int(found["hour"])
    return (((year * 372 + month * 31 + day) * 24 + hour) * 60 + int(found["minute"])) * 60.0
