"""A batch of prompts: JSON lines, or rows in any other form that training text may have, as requests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.json_values import bare_line, is_by_line, json_rows
from ssdcli.data.readers.tables import table_rows
from ssdcli.data.row_forms import SAID, SPEAKER, Unfit, asked, merged, messages_of
from ssdcli.errors import UsageError
from ssdcli.generation.types import Request
from ssdcli.options.checks import Check
from ssdcli.registry.names import suggest
from ssdcli.text.messages import BETWEEN, Message

_TEXT = Check("text", lambda value: isinstance(value, str))
_WHOLE = Check("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
_FLAG = Check("true or false", lambda value: isinstance(value, bool))
_NAME = Check("text or a whole number", lambda value: _TEXT.holds(value) or _WHOLE.holds(value))
_MESSAGES = Check("a list", lambda _: True)  # `_messages` checks it in detail
_LINE = {
    "prompt": _TEXT,
    "context": _TEXT,
    "id": _NAME,
    "seed": _WHOLE,
    "messages": _MESSAGES,
    "system": _TEXT,
    "plain": _FLAG,
}
_EXAMPLES = 'Write lines such as {"prompt": "Dear landlord,"} or {"messages": [{"role": "user", "content": "Hello!"}]}.'


def read_batch(text: str, name: str, context: str) -> list[Request]:
    """The requests of a batch, one a row; UsageError names the line that is wrong.

    name: where the text is from. context: private text before each line's own.
    """
    return [_request(values, place, context) for values, place in _batch_rows(text, name)]


def _batch_rows(text: str, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a batch in any form that training text may have, each with its place."""
    suffix = Path(name).suffix.lower()
    by_line, _ = is_by_line(iter([text]))
    if suffix not in (".csv", ".tsv") and by_line:
        # Not splitlines: JSON text may contain other line ends, such as U+2028, unescaped.
        lines = ((number, bare_line(line)) for number, line in enumerate(text.split("\n"), start=1))
        yield from (
            (_parsed(line, place), place) for number, line in lines if line and (place := f"line {number} of {name}")
        )
        return
    report = ReadReport()
    delimiter = "\t" if suffix == ".tsv" else ","
    is_table = suffix in (".csv", ".tsv")
    rows = table_rows(iter([text]), name, report, delimiter) if is_table else json_rows(iter([text]), name, report)
    for number, row in rows:
        yield {key: value for key, value in row.items() if value != "" or not is_table}, f"row {number} of {name}"
    for reason, skips in report.skips.items():
        raise UsageError(f"{skips.first} cannot be read: {reason}.", _EXAMPLES)


def _request(given: dict[str, Any], place: str, context: str) -> Request:
    values = _checked(asked(given), _LINE, place)
    if "prompt" not in values and "messages" not in values:
        raise UsageError(f"{place} has no prompt.", _EXAMPLES)
    if "prompt" in values and "messages" in values:
        raise UsageError(f"{place} has both a prompt and messages.", "Omit one of them.")
    own = [part for part in (context, values.get("context", "")) if part]
    values["context"] = BETWEEN.join(own)
    if "messages" in values:
        values["messages"] = _messages(values["messages"], place)
    with _placed(place):
        return Request(**values)


def _messages(items: object, place: str) -> tuple[Message, ...]:
    if not isinstance(items, list) or not items:
        raise UsageError(f"{place} has no list of messages under 'messages'.", _EXAMPLES)
    said = [_message(item, f"message {number} of {place}") for number, item in enumerate(items, start=1)]
    return tuple(merged([message for several in said for message in several]))


def _message(item: object, place: str) -> list[Message]:
    """A message in any form that training text may have; none for the call of a tool."""
    if not isinstance(item, dict):
        raise UsageError(f"{place} is not a JSON object.", _EXAMPLES)
    for key, names in (("role", SPEAKER), ("content", (*SAID, "tool_calls"))):
        if not any(name in item for name in names):
            raise UsageError(f"{place} has no {key}.", _EXAMPLES)
    try:
        return messages_of([item])
    except Unfit as unfit:
        raise UsageError(f"{place} is {unfit}.", _EXAMPLES) from None


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Begin the message of an error with the place."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error.problem}", error.remedy) from None


def _checked(values: dict[str, Any], checks: Mapping[str, Check], place: str) -> dict[str, Any]:
    """The same values; UsageError names a key that is unknown, or whose value fails its check."""
    for key, value in values.items():
        if key not in checks:
            remedy = f"{suggest(key, checks)} Choose from {', '.join(checks)}."
            raise UsageError(f"{place} has an unknown key {key!r}.", remedy.strip())
        if not checks[key].holds(value):
            article = "an" if key[0] in "aeiou" else "a"
            raise UsageError(f"{place} has {article} {key} that is not {checks[key]}.", "Correct that line.")
    return values


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not valid JSON ({error}).", "Correct that line.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{place} is not a JSON object.", _EXAMPLES)
    return values
