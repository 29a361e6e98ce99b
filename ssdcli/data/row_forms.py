"""What a row can be: its text, or a conversation in one of several forms. Readers, batches and documents go by this."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from ssdcli.machine.encodings import decode_bytes
from ssdcli.text.messages import BETWEEN, Message, Role

Row = Mapping[str, Any]

TEXT = "text"
CLOZE = "cloze"  # words that may come next at places of a text
SYSTEM = ("system", "system_prompt", "systeminstruction", "system_instruction")
HISTORY = ("history",)  # the turns before a question: pairs of texts, as in Alpaca, or a list of turns
CONVERSATIONS = ("messages", "conversations", "conversation", "contents", "dialogue", "dialog")  # lists of turns
NO_TEXT = "no text, such as a picture or the call of a tool"
NO_TEXT_FIELDS = "no 'text' and no conversation, such as 'prompt' and 'response', or 'messages'"

ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "tool", "function", "observation", "ipython"), "user"),
    **dict.fromkeys(("function_response", "tool_response", "tool_result"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "model", "chatbot", "bot", "ai", "claude", "bard", "bing"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
}
_CALLS = ("function_call", "tool_call")  # roles of turns that are no text
SPEAKER = ("role", "from", "author", "sender", "speaker")
SAID = ("content", "value", "text", "parts")
_WEIGHTS = ("weight", "train", "loss_weight")


@dataclass(frozen=True)
class Pair:
    """A form of a row that is a question and its answer.

    question: the names of its field.
    more: names of a field with further text of the question.
    answer: the names of the answer's field.
    """

    question: tuple[str, ...]
    answer: tuple[str, ...]
    more: tuple[str, ...] = ()

    def of(self, row: Row) -> tuple[Any, Any, Any] | None:
        """The question, more of it and the answer; None if the row has another form."""
        question, answer = _first(row, self.question), _first(row, self.answer)
        return None if question is None or answer is None else (question, _first(row, self.more), answer)


PAIRS = (
    Pair(("prompt",), ("response", "completion", "chosen")),
    Pair(("instruction",), ("output", "response", "completion", "answer"), ("input", "context")),
    Pair(("question", "query"), ("answer", "response"), ("context",)),
    Pair(("input",), ("output",)),
)
FIELDS = (
    TEXT,
    CLOZE,
    *CONVERSATIONS,
    *SYSTEM,
    *HISTORY,
    *(name for pair in PAIRS for name in (*pair.question, *pair.more, *pair.answer)),
)


class Unfit(Exception):
    """A row's conversation is unfit for training; the message is the reason under which it is counted."""


def named(row: Mapping[Any, Any]) -> Row:
    """A row by the names used here: in lower case, without blanks around them; what is spelled so already wins."""
    plain = {str(key).strip().casefold(): value for key, value in row.items() if key is not None}
    return plain | {key: value for key, value in row.items() if isinstance(key, str) and key in plain}


def text_of(row: Row) -> str | None:
    """The text of a row; None if it has none, blank if it is."""
    value = row.get(TEXT)
    if value is None or isinstance(value, (bool, int, float)):
        return None
    try:
        return content(value)
    except Unfit:
        return None


def asked(row: Row) -> dict[str, Any]:
    """A row of a batch by the names of a request: what is asked is under `prompt` or `messages`; answers are dropped.

    A `context` is the private one, whatever else the row has. Unfit for a history that cannot be read.
    """
    kept = {name: value for name, value in row.items() if name not in HISTORY}
    for name in CONVERSATIONS[1:]:
        if name in kept and CONVERSATIONS[0] not in kept:
            kept[CONVERSATIONS[0]] = kept.pop(name)
    text = kept.pop(TEXT, None)
    for pair in PAIRS:
        names = [name for name in pair.question if kept.get(name) is not None]
        if names:
            question = kept.pop(names[0])
            more = [kept.pop(name) for name in pair.more if name in kept and name != "context"]
            kept = {name: value for name, value in kept.items() if name not in pair.answer}
            return kept | _question(question, more, _earlier(row))
    return kept if text is None or CONVERSATIONS[0] in kept else kept | {"prompt": text}


def _question(question: object, more: Sequence[object], earlier: Sequence[object]) -> dict[str, Any]:
    if isinstance(question, list):
        return {CONVERSATIONS[0]: [*earlier, *question]}
    texts = [text for text in more if isinstance(text, str) and text]
    whole = BETWEEN.join([question, *texts]) if isinstance(question, str) else question
    return {CONVERSATIONS[0]: [*earlier, {"role": "user", "content": whole}]} if earlier else {"prompt": whole}


def has_conversation(row: Row) -> bool:
    """Whether a row has a conversation, whatever it contains."""
    return _first(row, CONVERSATIONS) is not None or any(pair.of(row) is not None for pair in PAIRS)


def row_turns(row: Row) -> tuple[Message, ...]:
    """The turns of a row's conversation; Unfit if it is not fit for training."""
    return fit_turns(_said(row))


def fit_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns of a conversation up to the last answer that is learned; Unfit if there is none.

    Consecutive messages of one role are one turn.
    """
    turns = merged(messages)
    if all(turn.role != "assistant" for turn in turns):
        raise Unfit("a conversation without an assistant message")
    answers = [place for place, turn in enumerate(turns) if turn.written]
    if not answers:
        raise Unfit("a conversation whose answers all have the weight 0")
    if any(not turns[place].content.strip() for place in answers):
        raise Unfit("an empty response")
    kept = [turn for turn in turns[: answers[-1] + 1] if turn.role != "system" or turn.content]
    if all(turn.role != "user" for turn in kept):
        raise Unfit("a conversation without a user message before an answer")
    return tuple(kept)


def messages_of(items: object) -> list[Message]:
    """The messages of a list of turns, as OpenAI, ShareGPT and others write them; Unfit for anything else.

    Tools are heard like the user, calls of tools are no text, and a later system message is heard like the user.
    """
    listed = unpacked(items)
    if not isinstance(listed, list) or not all(isinstance(item, Mapping) for item in listed):
        raise Unfit("'messages' that are not a list of objects")
    said: list[Message] = []
    for item in listed:
        role, text = _role(_first(item, SPEAKER)), _first(item, SAID)
        called = role is None or (text is None and role == "assistant")
        if called or (text is None and item.get("tool_calls") is not None):
            continue
        assert role is not None
        late = role == "system" and any(message.role != "system" for message in said)
        said.append(Message("user" if late else role, content("" if text is None else text), _is_learned(item)))
    return said


def count_no_text(row: Row) -> int:
    """How many parts and turns of a row's conversation are no text: pictures, sound, calls of tools."""
    return sum(_no_text(row[name]) for name in FIELDS if isinstance(row.get(name), list))


def _no_text(value: object) -> int:
    """How many of the parts of a turn, or of its content, are no text."""
    if isinstance(value, Mapping):
        called = sum(value.get(name) not in (None, []) for name in ("tool_calls", "function_call"))
        inner = next((value[name] for name in SAID if value.get(name) is not None), None)
        return called + (_no_text(inner) if inner is not None else not called)
    return sum(map(_no_text, value)) if isinstance(value, list) else 0


def content(value: object) -> str:
    """The text of a message or a field: as it is, as bytes, or in parts, of which those that are no text are left out.

    Unfit if it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode_bytes(value).text
    if isinstance(value, Mapping):
        inner = _first(value, ("text", "parts", "content", "value"))
        if inner is None and "type" not in value and "content_type" not in value:
            raise Unfit("a message whose content is not text")
        return "" if inner is None else content(inner)
    if isinstance(value, Sequence):
        parts = [content(part) for part in value if part is not None]
        whole = all(isinstance(part, str) and part == part.strip() for part in value)  # lines, not pieces of one
        return ("\n" if whole else "").join(parts)
    raise Unfit("a message whose content is not text")


def merged(messages: Sequence[Message]) -> list[Message]:
    """The messages with those of one role, one after the other, as one turn."""
    return [
        Message(role, BETWEEN.join(message.content for message in several if message.content), learned)
        for (role, learned), several in groupby(messages, key=lambda message: (message.role, message.learned))
    ]


def _said(row: Row) -> list[Message]:
    """The messages of a row in whatever form."""
    given = _first(row, SYSTEM)
    try:
        system = "" if given is None else content(given)
    except Unfit:
        raise Unfit("a 'system' that is not text") from None
    before = [Message("system", system)] if system else []
    turns = _first(row, CONVERSATIONS)
    if turns is not None:
        said = messages_of(turns)
        return said if said and said[0].role == "system" else before + said
    question, more, answer = next(found for pair in PAIRS if (found := pair.of(row)) is not None)
    asked = [*messages_of(_earlier(row)), *_heard(question, "user")]
    if more:
        asked.append(Message("user", content(more)))
    answered = _heard(answer, "assistant")
    whole = any(message.role == "user" for message in answered)  # what was chosen, with the question again
    return before + (answered if whole else asked + answered)


def _earlier(row: Row) -> list[Any]:
    """The turns of a row's history."""
    given = unpacked(_first(row, HISTORY) or [])
    if isinstance(given, list) and all(isinstance(turn, Mapping) for turn in given):
        return given
    if isinstance(given, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        roles = ("user", "assistant")
        return [{"role": role, "content": text} for pair in given for role, text in zip(roles, pair, strict=True)]
    raise Unfit("a 'history' that is no list of questions and answers")


def _heard(value: object, role: Role) -> list[Message]:
    """The messages of one field: a list of turns, or a text of this role."""
    items = unpacked(value)
    listed = isinstance(items, list) and items != [] and all(isinstance(item, Mapping) for item in items)
    if listed and any(_first(item, SPEAKER) is not None for item in cast("list[Row]", items)):
        return messages_of(items)
    text = content(value)
    return [Message(role, text.removeprefix(" ") if role == "assistant" else text)]


def unpacked(value: object) -> object:
    """A list that is written as JSON or as Python writes it, as in a table, as a list."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def _role(speaker: object) -> Role | None:
    """The role of a speaker; None for calls of tools, Unfit for a stranger."""
    name = speaker.get("role", speaker.get("name")) if isinstance(speaker, Mapping) else speaker
    known = name.strip().casefold() if isinstance(name, str) else ""
    if known in _CALLS:
        return None
    if known not in ROLES:
        raise Unfit("a message whose role is not one of system, user, assistant, or a tool's")
    return ROLES[known]


def _is_learned(item: Row) -> bool:
    return not any(key in item and item[key] is not None and not item[key] for key in _WEIGHTS)


def _first(row: Row, names: Sequence[str]) -> Any:
    """The first field of these names that holds something but an empty list; None if none does."""
    return next((row[name] for name in names if row.get(name) is not None and row[name] != []), None)
