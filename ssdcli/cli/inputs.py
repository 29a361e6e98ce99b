"""What the commands read for models that write: the prompt, standard input, members, context files and batches."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdcli.cli import console
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.json_values import bare_line, is_by_line, json_rows
from ssdcli.data.readers.tables import table_rows
from ssdcli.data.row_forms import SAID, SPEAKER, Unfit, asked, merged, messages_of
from ssdcli.errors import UsageError
from ssdcli.generation.types import Request
from ssdcli.machine.encodings import decode_bytes
from ssdcli.machine.units import counted
from ssdcli.options.checks import Check
from ssdcli.options.declare import STREAM, option
from ssdcli.registry.names import NO_CORE, suggest
from ssdcli.text.messages import BETWEEN, Message

PATIENCE = 1.0  # seconds without input before a warning that standard input is being read


@dataclass(frozen=True)
class ModelFlags:
    """The models that a command works with.

    core: the large model's name, or NO_CORE.
    members: small models, each NAME or NAME=WEIGHT.
    context: files of private context.
    """

    core: str | None = option(
        None,
        f"The large model, or {NO_CORE!r}.",
        metavar="NAME",
        default="the core that the first small model was made for",
        common=True,
        completes="core",
    )
    members: tuple[str, ...] = option(
        (),
        "A small model, and its weight in (0, 1] if not the tuned one; the core keeps the rest. Repeatable.",
        flag="with",
        metavar="NAME[=W]",
        common=True,
        completes="member",
    )
    context: tuple[Path, ...] = option(
        (), "Private context, seen only by small models. Repeatable.", metavar="FILE", common=True
    )


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


def read_requests(prompt: str | None, batch: str | None, context: Sequence[Path]) -> list[Request]:
    """The requests: the lines of a batch, or one prompt, each with the private context of the files."""
    private = read_context(context)
    return [Request(read_prompt(prompt), private)] if batch is None else read_batch(batch, private)


def read_prompt(argument: str | None) -> str:
    """Standard input, unless it is a terminal, and the argument, with an empty line between them."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _without_last_line_end(_read_standard_input())
    return BETWEEN.join(part for part in (piped, _given(argument or "")) if part)


def _given(argument: str) -> str:
    """An argument as text; bytes that Python could not decode are read like those of a file."""
    if argument.isprintable() or not any("\udc80" <= character <= "\udcff" for character in argument):
        return argument
    return _as_text(os.fsencode(argument), "the prompt")


def read_members(given: tuple[str, ...]) -> dict[str, float | None]:
    """Small models and their weights from NAME and NAME=W; UsageError for anything else."""
    members: dict[str, float | None] = {}
    for item in given:
        name, equals, number = item.partition("=")
        if name in members:
            raise UsageError(f"--with names {name!r} twice.", "Name each small model once.")
        try:
            members[name] = float(number) if equals else None
        except ValueError:
            raise UsageError(
                f"--with {item}: {number!r} is not a weight.", f"Give a number, as in --with {name}=0.3."
            ) from None
    return members


def read_context(paths: Sequence[Path]) -> str:
    """The files' texts with empty lines between them; UsageError names one that cannot be read."""
    return BETWEEN.join(_without_last_line_end(_read_file(path, "context file")) for path in paths)


def read_batch(source: str, context: str) -> list[Request]:
    """Read JSON lines from a file or, for "-", standard input; UsageError names the line that is wrong.

    context: private text before each line's own.
    """
    if source == STREAM:
        text = "" if sys.stdin is None else _read_standard_input()
    else:
        text = _read_file(Path(source).expanduser(), "batch file")
    name = "standard input" if source == STREAM else source
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
            raise UsageError(f"{place} has a {key} that is not {checks[key]}.", "Correct that line.")
    return values


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not valid JSON ({error}).", "Correct that line.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{place} is not a JSON object.", _EXAMPLES)
    return values


def _read_standard_input() -> str:
    waiting = threading.Timer(PATIENCE, console.warn, ["waiting for standard input; ^D or '< /dev/null' ends it."])
    waiting.daemon = True
    waiting.start()
    try:
        return _as_text(sys.stdin.buffer.read(), "standard input")
    except OSError as error:
        raise UsageError(f"standard input cannot be read ({error.strerror}).", "Pass '< /dev/null'.") from None
    finally:
        waiting.cancel()


def _read_file(path: Path, what: str) -> str:
    try:
        return _as_text(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"the {what} {str(path)!r} cannot be read ({error.strerror}).", "Name a text file.") from None


def _as_text(data: bytes, source: str) -> str:
    """Decode text; another encoding than UTF-8 and what had to be replaced are told by a warning."""
    found = decode_bytes(data)
    if found.encoding != "UTF-8":
        console.warn(f"{source} is not in UTF-8; it was read as {found.encoding}.")
    if found.replaced:
        console.warn(f"{counted(found.replaced, 'invalid character')} of {source} had to be replaced.")
    return found.text


def _without_last_line_end(text: str) -> str:
    """Drop the line end at the end of a text file, so that an answer continues the prompt's last line."""
    return text.removesuffix("\n").removesuffix("\r")
