"""Conversations in rows: the turns of `messages`, or of `prompt` and `response`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, cast, get_args

from ssdcli.text.messages import BETWEEN, Message, Role

FIELDS = ("messages", "prompt", "response", "system")

_ROLES = get_args(Role)


class Unfit(Exception):
    """A row's conversation is unfit for training; the message is the reason under which it is counted."""


def has_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row has messages, or a prompt and a response, whatever these contain."""
    return row.get("messages") is not None or all(isinstance(row.get(name), str) for name in ("prompt", "response"))


def row_turns(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns of a row's conversation, up to the last answer; consecutive messages of one role are one turn.

    Raises Unfit.
    """
    messages = row.get("messages")
    said = _single(row) if messages is None else _said(messages)
    turns = [
        Message(role, BETWEEN.join(message.content for message in several if message.content))
        for role, several in groupby(said, key=attrgetter("role"))
    ]
    return _checked(turns)


def _single(row: Mapping[str, Any]) -> list[Message]:
    system, prompt, response = row.get("system"), row["prompt"], row["response"]
    if not isinstance(system, str | None):
        raise Unfit("a 'system' that is not text")
    return [Message("system", system or ""), Message("user", prompt), Message("assistant", response)]


def _said(messages: object) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        raise Unfit("'messages' that are not a list of objects")
    return [Message(_role(message.get("role")), _content(message.get("content"))) for message in messages]


def _role(role: object) -> Role:
    if role not in _ROLES:
        raise Unfit(f"a message whose role is not one of {', '.join(_ROLES)}")
    return cast(Role, role)


def _content(content: object) -> str:
    """The text of a message, which may come in parts such as {"type": "text", "text": "..."}."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    found = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    texts = [text for text in found if isinstance(text, str)]
    if len(texts) < len(parts):
        raise Unfit("a message whose content is not text")
    return "".join(texts)


def _checked(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns up to the last answer, without an empty system turn."""
    if any(turn.role == "system" for turn in turns[1:]):
        raise Unfit("a system message that is not the first")
    answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise Unfit("a conversation without an assistant message")
    if any(not turns[place].content.strip() for place in answers):
        raise Unfit("an empty response")
    kept = [turn for turn in turns[: answers[-1] + 1] if turn.role != "system" or turn.content]
    if all(turn.role != "user" for turn in kept):
        raise Unfit("a conversation without a user message before an answer")
    return tuple(kept)
