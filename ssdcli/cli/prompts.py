"""What `ssd generate` reads: the prompt, standard input, context files and batches."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ssdcli.api import Request
from ssdcli.cli import console
from ssdcli.errors import UsageError
from ssdcli.reading import BETWEEN
from ssdcli.registry.names import suggest

PATIENCE = 1.0  # seconds of silence before a reader of standard input says that it waits
STDIN = "-"

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": ((str,), "text"),
    "context": ((str,), "text"),
    "id": ((str, int), "text or a whole number"),
    "seed": ((int,), "a whole number"),
}


def read_prompt(argument: str | None) -> str:
    """Return standard input, if it is no terminal, and the argument, an empty line between the two."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _one_line_end_less(_read_standard_input())
    return BETWEEN.join(part for part in (piped, argument or "") if part)


def read_context(paths: Sequence[Path]) -> str:
    """Return the files' texts with empty lines between them; UsageError names one that cannot be read."""
    return BETWEEN.join(_one_line_end_less(_read_file(path, "context file")) for path in paths)


def read_batch(source: str, context: str) -> list[Request]:
    """Read JSON lines from a file or, for "-", standard input; UsageError names the line that is wrong.

    context: goes before each line's own.
    """
    if source == STDIN:
        text = "" if sys.stdin is None else _read_standard_input()
    else:
        text = _read_file(Path(source).expanduser(), "batch file")
    name = "standard input" if source == STDIN else source
    # Not splitlines: JSON text may hold other line ends, such as U+2028, as they are.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_request(line, f"line {number} of {name}", context) for number, line in lines]


def _request(line: str, place: str, context: str) -> Request:
    values = _parsed(line, place)
    for key, value in values.items():
        if key not in _KINDS:
            known = ", ".join(field.name for field in fields(Request))
            raise UsageError(f"{place} has a key {key!r}.", f"{suggest(key, _KINDS)} Known are {known}.".strip())
        kinds, expected = _KINDS[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UsageError(f"{place} has a {key} that is not {expected}.", "Mend that line.")
    if "prompt" not in values:
        raise UsageError(f"{place} has no prompt.", 'Write lines such as {"prompt": "Dear landlord,"}.')
    own = [part for part in (context, values.get("context", "")) if part]
    return Request(values["prompt"], BETWEEN.join(own), values.get("id"), values.get("seed"))


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not valid JSON ({error}).", "Mend that line.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{place} is not a JSON object.", 'Write lines such as {"prompt": "Dear landlord,"}.')
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
    """Decode UTF-8; what is none is replaced, with a warning."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        console.warn(f"{source} is not all UTF-8; the bytes that are not were replaced.")
        return data.decode("utf-8-sig", errors="replace")


def _one_line_end_less(text: str) -> str:
    """Drop the line end that every text file ends with: an answer goes on where the prompt stops."""
    return text.removesuffix("\n").removesuffix("\r")
