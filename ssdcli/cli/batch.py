"""A batch of prompts: JSON lines, or rows in any other form that training text may have, as requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssdcli.cli import console
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.json_values import bare_line, is_by_line, json_rows
from ssdcli.data.readers.tables import table_rows
from ssdcli.data.row_forms import (
    NO_TEXT,
    SAID,
    SPEAKER,
    Row,
    Unfit,
    asked,
    count_no_text,
    merged,
    messages_of,
    named,
)
from ssdcli.errors import UsageError
from ssdcli.generation.types import Request
from ssdcli.machine.units import counted
from ssdcli.options.checks import Check
from ssdcli.registry.names import suggest
from ssdcli.text.messages import BETWEEN, Message

_HALF = re.compile("[\ud800-\udfff]")
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


@dataclass(frozen=True)
class OddRow:
    """A row of a batch that cannot be answered.

    id: its own, else its place in the batch, from 0.
    problem, remedy: sentences, as of an error.
    """

    id: str | int
    problem: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """What stands in place of a result."""
        return {"id": self.id, "text": None, "finish_reason": "error", "error": self.error}

    @property
    def error(self) -> str:
        """Both sentences."""
        return f"{self.problem} {self.remedy}".strip()


def read_batch(text: str, name: str, context: str) -> list[Request | OddRow]:
    """The requests of a batch, one a row; in place of one that cannot be read, what is wrong (UsageError if all are).

    name: where the text is from. context: private text before each line's own.
    """
    given = list(_batch_rows(text, name))
    rows = [_row(values, number, place, context) for number, (values, place) in enumerate(given)]
    require_one(rows)
    halves = sum(_halves(values) for values, _ in given if not isinstance(values, UsageError))
    if halves:
        console.warn(f"{counted(halves, 'invalid character')} of {name} had to be replaced.")
    left_out = sum(count_no_text(values) for values, _ in given if not isinstance(values, UsageError))
    if left_out:
        console.warn(f"{counted(left_out, 'part')} of {name} left out: {NO_TEXT}.")
    return rows


def _halves(row: Row) -> int:
    """How many halves of surrogate pairs, which are no characters, JSON spells in a row."""
    return len(_HALF.findall(json.dumps(row, ensure_ascii=False, default=str)))


def require_one(rows: Sequence[Request | OddRow]) -> None:
    """Raise the UsageError of the first row unless one can be answered, or there is none."""
    if rows and isinstance(rows[0], OddRow) and all(isinstance(row, OddRow) for row in rows):
        raise UsageError(rows[0].problem, rows[0].remedy)


def _row(given: Row | UsageError, number: int, place: str, context: str) -> Request | OddRow:
    try:
        if isinstance(given, UsageError):
            raise given
        request = _request(given, place, context)
    except UsageError as error:
        own = None if isinstance(given, UsageError) else given.get("id")
        return OddRow(own if isinstance(own, str | int) else number, error.problem, error.remedy)
    return replace(request, id=number) if request.id is None else request


def _batch_rows(text: str, name: str) -> Iterator[tuple[Row | UsageError, str]]:
    """The rows of a batch in any form that training text may have, each with its place; an error for a broken one."""
    suffix, report = Path(name).suffix.lower(), _Skips()
    is_table = suffix in (".csv", ".tsv")
    by_line, chunks = is_by_line(iter([text]))
    if by_line and not is_table:
        yield from _lines(text, name)
        return
    delimiter = "\t" if suffix == ".tsv" else ","
    rows = table_rows(chunks, name, report, delimiter) if is_table else json_rows(chunks, name, report)
    for number, row in rows:
        yield from report.taken()
        yield named(_cells(row) if is_table else row), f"row {number} of {name}"
    yield from report.taken()


def _lines(text: str, name: str) -> Iterator[tuple[Row | UsageError, str]]:
    # Not splitlines: JSON text may contain other line ends, such as U+2028, unescaped.
    for number, line in enumerate(map(bare_line, text.split("\n")), start=1):
        place = f"line {number} of {name}"
        if line:
            yield _parsed(line, place), place


class _Skips(ReadReport):
    """Keeps what a reader of rows skips until it is taken, so that it is told in its place."""

    def __init__(self) -> None:
        super().__init__()
        self._held: list[tuple[UsageError, str]] = []

    def skip(self, reason: str, place: str, unit: str = "file") -> None:
        """Hold the place of one skipped row and the reason."""
        self._held.append((UsageError(f"{place} cannot be read: {reason}.", _EXAMPLES), place))

    def taken(self) -> list[tuple[UsageError, str]]:
        """What has been skipped since the last time."""
        held, self._held = self._held, []
        return held


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a table that are not blank; a seed as a number, and `plain` as a truth value."""
    cells = {key: value for key, value in row.items() if value != ""}
    for key, value in cells.items():
        if key.casefold() == "seed" and re.fullmatch(r"[+-]?\d+", value.strip()):
            cells[key] = int(value)
        elif key.casefold() == "plain" and value.strip().casefold() in ("true", "false"):
            cells[key] = value.strip().casefold() == "true"
    return cells


def _request(given: Row, place: str, context: str) -> Request:
    try:
        values = _checked(asked(given), _LINE, place)
    except Unfit as unfit:
        raise UsageError(f"{place} has {unfit}.", _EXAMPLES) from None
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


def _parsed(line: str, place: str) -> Row | UsageError:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return UsageError(f"{place} is not valid JSON ({error}).", "Correct that line.")
    return named(values) if isinstance(values, dict) else UsageError(f"{place} is not a JSON object.", _EXAMPLES)
