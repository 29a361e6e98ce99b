"""Exports of chats and notes: which they are, who says what, and what of it is learned."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ssdcli.data.documents import Document
from ssdcli.data.readers.notes import note_text
from ssdcli.data.readers.text import clean, text_documents
from ssdcli.data.row_forms import CONVERSATIONS, NO_TEXT, ROLES, Row, Unfit, count_no_text, fit_turns, messages_of
from ssdcli.data.streams import MAX_DOCUMENT_CHARACTERS, NumberedLines, Source
from ssdcli.machine.encodings import decode_bytes
from ssdcli.text.messages import BETWEEN, Message

PAUSE = 6 * 3600.0  # seconds, after which another conversation begins

_MARKUP = re.compile(r"<([@#!]?)([^<>|]+)(?:\|([^<>]*))?>")  # of Slack: mentions and links


@dataclass(frozen=True)
class Said:
    """A message of a chat between people.

    names: of who wrote it, all that the export has.
    text: what it says.
    when: seconds, None if the export does not tell.
    """

    names: tuple[str, ...]
    text: str
    when: float | None = None


def export_documents(row: Row, place: str, source: Source) -> Iterator[Document] | None:
    """The documents of an object that an export consists of; None if it is none."""
    if isinstance(row.get("mapping"), Mapping):
        return _conversation(_chatgpt(row, place, source), place, source)
    if isinstance(row.get("chat_messages"), list):
        turns = [one for one in row["chat_messages"] if isinstance(one, Mapping)]
        _count_no_text(turns, place, source)
        return _conversation(map(_claude, turns), place, source)
    if "textContent" in row or "listContent" in row:
        return _keep(row, place, source)
    chats = row.get("chats")
    if isinstance(chats, Mapping) and isinstance(chats.get("list"), list):
        inner = [one for one in chats["list"] if isinstance(one, Mapping) and isinstance(one.get("messages"), list)]
        return _several(inner, place, source)
    messages = row.get("messages")
    if isinstance(messages, list) and any(map(_is_between_people, messages)):
        return chat_documents(_in_order(list(_said(messages))), place, source)
    return None


def is_slack(row: Row) -> bool:
    """Whether a row is a message of a Slack export, whose files are arrays of them."""
    return row.get("type") == "message" and "text" in row and ("user" in row or "bot_id" in row or "ts" in row)


def slack_documents(rows: Sequence[Row], source: Source) -> Iterator[Document]:
    """Yield the chat of a Slack file, with the names that the export has for its users."""
    known = _slack_users(source)
    said = []
    for row in rows:
        if row.get("subtype") in (None, "thread_broadcast", "me_message", "file_share"):
            user = str(row.get("user") or row.get("username") or row.get("bot_id") or "")
            profile = row.get("user_profile")
            names = [*known.get(user, ()), *_strings(profile, ("real_name", "display_name", "name")), user]
            text = html.unescape(_MARKUP.sub(lambda match: _mention(match, known), note_text(row.get("text"))))
            said.append(Said(tuple(filter(None, names)), text, _number(row.get("ts"))))
    yield from chat_documents(said, source.name, source)


def chat_documents(said: Sequence[Said], place: str, source: Source) -> Iterator[Document]:
    """Yield a chat as conversations in which the person's own messages are learned; else, unless they say who, as text.

    A conversation ends where nobody writes for PAUSE seconds.
    """
    spoken = [one for one in said if one.text.strip()]
    for _ in range(len(said) - len(spoken)):
        source.report.skip("message without text", place, "message")
    people = dict.fromkeys(one.names[0] for one in spoken if one.names)
    if not spoken:
        source.report.skip("chat without text", place, "chat")
    elif not source.reading.me:
        source.report.ask(people)
        lines = (f"{one.names[0]}: {one.text}\n" if one.names else f"{one.text}\n" for one in spoken)
        yield from text_documents([clean("".join(lines), place, source.report)], place, source.report)
    elif not any(_is_me(one, source) for one in spoken):
        source.report.skip("chat in which --me does not write", f"{place}, people: {', '.join(people)}", "chat")
    else:
        for number, session in enumerate(_sessions(spoken), 1):
            turns = [_turn(one, source, named=len(people) > 2) for one in session]
            yield from _conversation(turns, f"{place}, conversation {number}", source)


def _in_order(said: list[Said]) -> list[Said]:
    """Messages as time goes, which some exports turn round."""
    times = {one: one.when for one in said if one.when is not None}
    return sorted(said, key=times.__getitem__) if all(one in times for one in said) else said


def _turn(one: Said, source: Source, *, named: bool) -> Message:
    if _is_me(one, source):
        return Message("assistant", one.text)
    return Message("user", f"{one.names[0]}: {one.text}" if named and one.names else one.text)


def _is_me(one: Said, source: Source) -> bool:
    mine = {name.casefold() for name in source.reading.me}
    return any(name.casefold() in mine for name in one.names)


def _sessions(said: Sequence[Said]) -> Iterator[list[Said]]:
    """Yield what is said without a long pause."""
    session: list[Said] = []
    for one in said:
        before = session[-1].when if session else None
        if session and one.when is not None and before is not None and one.when - before > PAUSE:
            yield session
            session = []
        session.append(one)
    if session:
        yield session


def _conversation(messages: Iterable[Message], place: str, source: Source) -> Iterator[Document]:
    """Yield a conversation, if it is fit for training."""
    try:
        turns = fit_turns(list(messages))
    except Unfit as unfit:
        source.report.skip(str(unfit), place, "conversation")
        return
    cleaned = tuple(replace(turn, content=clean(turn.content, place, source.report)) for turn in turns)
    document = Document.conversation(cleaned, place)
    if len(document.text) > MAX_DOCUMENT_CHARACTERS:
        source.report.skip(f"a conversation of more than {MAX_DOCUMENT_CHARACTERS:,} characters", place, "conversation")
        return
    source.report.add(document)
    yield document


def _count_no_text(messages: Sequence[Row], place: str, source: Source) -> None:
    for _ in range(count_no_text({CONVERSATIONS[0]: messages})):
        source.report.skip(NO_TEXT, place, "part")


def _chatgpt(row: Row, place: str, source: Source) -> list[Message]:
    """The messages of ChatGPT on the branch that was shown last."""
    nodes = row["mapping"]
    name, branch, seen = row.get("current_node"), [], set()
    if name not in nodes:  # the last node is where nothing follows
        name = next((key for key, node in reversed(nodes.items()) if not (node or {}).get("children")), None)
    while isinstance(name, str) and name in nodes and name not in seen:
        seen.add(name)
        branch.append(nodes[name].get("message"))
        name = nodes[name].get("parent")
    shown = [one for one in reversed(branch) if isinstance(one, Mapping) and not _is_hidden(one)]
    _count_no_text(shown, place, source)
    return [message for one in shown for message in _heard(one)]


def _is_hidden(message: Row) -> bool:
    metadata = message.get("metadata")
    return isinstance(metadata, Mapping) and bool(metadata.get("is_visually_hidden_from_conversation"))


def _heard(message: Row) -> list[Message]:
    content = message.get("content")
    kind = content.get("content_type") if isinstance(content, Mapping) else "text"
    if kind not in ("text", "multimodal_text"):
        return []  # code that is run, browsing, thoughts
    try:
        heard = messages_of([{"role": (message.get("author") or {}).get("role"), "content": content}])
    except (Unfit, AttributeError):
        return []
    return [one for one in heard if one.content.strip()]


def _claude(message: Row) -> Message:
    """A message of Claude; the text of its parts where it has parts."""
    parts = message.get("content")
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    text = BETWEEN.join(text for text in texts if isinstance(text, str) and text) or note_text(message.get("text"))
    return Message("assistant" if message.get("sender") == "assistant" else "user", text)


def _keep(row: Row, place: str, source: Source) -> Iterator[Document]:
    """Yield a note of Google Keep, unless it was thrown away."""
    if row.get("isTrashed"):
        source.report.skip("note in the bin", place, "note")
        return
    items = row.get("listContent") or []
    listed = [note_text(item.get("text")) for item in items if isinstance(item, Mapping)]
    parts = [note_text(row.get("title")), note_text(row.get("textContent")), "\n".join(listed)]
    text = BETWEEN.join(part for part in parts if part.strip())
    if text:
        yield from text_documents([clean(text, place, source.report)], place, source.report)
    else:
        source.report.skip("note without text", place, "note")


def _several(chats: Sequence[Row], place: str, source: Source) -> Iterator[Document]:
    for number, chat in enumerate(chats, 1):
        yield from chat_documents(_in_order(list(_said(chat["messages"]))), f"{place}:{number}", source)


def _is_between_people(message: object) -> bool:
    """Whether a message names a person, not a role: of Telegram, Discord, Google Chat, Facebook or Instagram."""
    if not isinstance(message, Mapping) or "role" in message:
        return False
    names = _names(message)
    return bool(names) and not any(name.casefold() in ROLES for name in names[:1])


def _names(message: Row) -> tuple[str, ...]:
    found = _strings(message, ("from", "sender_name", "from_id", "actor"))
    for key in ("author", "creator"):
        found += _strings(message.get(key), ("nickname", "name", "email", "id"))
    return tuple(map(_unbroken, found))


def _said(messages: Sequence[object]) -> Iterator[Said]:
    for message in messages:
        if isinstance(message, Mapping) and message.get("type") not in (
            "service",
            "RecipientAdd",
            "ChannelPinnedMessage",
        ):
            text = next((message[key] for key in ("text", "content") if message.get(key)), None)
            yield Said(_names(message), _unbroken(note_text(text)), _when(message))


def _when(message: Row) -> float | None:
    for key, unit in (("date_unixtime", 1.0), ("timestamp_ms", 1000.0), ("date", 1.0), ("timestamp", 1.0)):
        value = message.get(key)
        if value is None:
            continue
        number = _number(value)
        if number is not None:
            return number / unit
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return None


def _unbroken(text: str) -> str:
    """A text of Facebook's export, which spells the bytes of UTF-8 as if each were a character, as it was meant."""
    if not any("\x80" <= character <= "\xbf" for character in text):
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _slack_users(source: Source) -> dict[str, tuple[str, ...]]:
    """The names of the users of a Slack export, which lie in the folder above."""
    try:
        users = json.loads(decode_bytes(source.beside("../users.json") or b"[]").text)
        return {one["id"]: tuple(_strings(one, ("real_name", "name"))) for one in users if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError):
        return {}


def _mention(match: re.Match[str], known: Mapping[str, Sequence[str]]) -> str:
    if match[1] == "@":
        return f"@{next(iter(known.get(match[2], ())), match[3] or match[2])}"
    return match[3] or ("" if match[1] == "!" else match[2])


def _strings(value: object, keys: Sequence[str]) -> list[str]:
    return [value[key] for key in keys if isinstance(value.get(key), str)] if isinstance(value, Mapping) else []


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
        held = Said(((found["name"] or "").lstrip("~ \u202f\xa0"),), text, _written_at(found))
    if held is not None:
        yield held


def _written_at(found: re.Match[str]) -> float:
    """Seconds of a message since some day; the order of day and month, which the formats share, hardly matters."""
    first, second, third = (int(found[key]) for key in "abc")
    year, month, day = (first, second, third) if first > 31 else (third, second, first)
    hour = int(found["hour"]) % 12 + 12 * (found["half"] in "Pp") if found["half"] else int(found["hour"])
    return (((year * 372 + month * 31 + day) * 24 + hour) * 60 + int(found["minute"])) * 60.0
