"""JSON as rows: one object a line, or an array or objects spread over lines, read value by value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from ssdcli.data.documents import ReadReport
from ssdcli.data.streams import NumberedLines

MAX_VALUE_CHARACTERS = 256 << 20  # of one value that is spread over lines

_BROKEN = "broken JSON, or not an object"
_DECODER = json.JSONDecoder(strict=False)  # which bears line ends and other control characters in texts
_BETWEEN = " \t\r\n,[]\ufeff\x1e"  # what may stand between the values of an array, or between objects
_PEEKED = 1 << 20  # characters, in which the form of a file shows

NumberedRow = tuple[int, Mapping[str, Any]]


def json_rows(chunks: Iterator[str], name: str, report: ReadReport) -> Iterator[NumberedRow]:
    """Yield the objects of a JSON file, numbered by line or else by place; what is broken is counted."""
    by_line, chunks = is_by_line(chunks)
    yield from (_by_line if by_line else _by_value)(chunks, name, report)


def holds_rows(chunks: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether a text without a name is JSON with objects, and all of its chunks again."""
    head, chunks = _head(chunks)
    start = head.lstrip(_BETWEEN[:-5] + "\ufeff")
    first = start.split("\n", 1)[0]
    if start.startswith("["):
        return start[1:].lstrip().startswith(("{", "]")) and '"' in start, chunks
    return start.startswith("{") and (_object(first) is not None or _begins_object(start)), chunks


def _begins_object(start: str) -> bool:
    """Whether a text begins like an object that is spread over lines."""
    inner = start[1:].lstrip()
    return inner.startswith('"') and inner.partition('"')[2].partition('"')[2].lstrip().startswith(":")


def is_by_line(chunks: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Whether a JSON file has one object a line, and all of its chunks again."""
    head, chunks = _head(chunks)
    lines = [line for line in head.lstrip("\ufeff").split("\n") if line.strip()][:2]
    if not lines:
        return True, chunks
    first = lines[0].strip()
    if first == "[" and len(lines) > 1:
        return _object(bare_line(lines[1])) is not None, chunks
    if first.startswith("[") or first == "{":
        return False, chunks
    spread = _object(bare_line(first)) is None and first.startswith("{") and _begins_object(head.lstrip())
    return not (spread and _reads_on(head)), chunks


def _reads_on(head: str) -> bool:
    """Whether an object goes on past the first line, so that the line alone is not broken."""
    start = head.lstrip("\ufeff \t\r\n")
    try:
        _, end = _DECODER.raw_decode(start)
    except json.JSONDecodeError as error:
        return error.pos > start.find("\n") > 0 and start[start.find("\n") :].lstrip()[:1] in ('"', "}", "]", ",")
    except (ValueError, RecursionError):  # a number with thousands of digits
        return False
    return end > start.find("\n")


def _head(chunks: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first characters, up to the end of the second line, and all chunks again."""
    held: list[str] = []
    size = lines = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        lines += chunk.count("\n") if "".join(held).strip() else 0
        if size >= _PEEKED or lines > 2:
            break
    return "".join(held), chain(held, chunks)


def _by_line(chunks: Iterable[str], name: str, report: ReadReport) -> Iterator[NumberedRow]:
    """Yield the objects of JSON lines, with or without the brackets and commas of an array; broken ones are counted."""
    lines = NumberedLines(chunks, name, report)
    for line in lines:
        bare = bare_line(line)
        if not bare:
            continue
        row = _object(bare)
        if row is None:
            report.skip(_BROKEN, f"{name}:{lines.number}", "line")
        else:
            yield lines.number, row


def bare_line(line: str) -> str:
    """A line without what an array has around its values."""
    line = line.strip(" \t\r\n\ufeff\x1e")
    line = line[1:].lstrip() if line.startswith("[") and (line == "[" or line[1:].lstrip().startswith("{")) else line
    line = line[:-1].rstrip() if line.endswith("]") and (line == "]" or line[:-1].rstrip().endswith("}")) else line
    return line.removesuffix(",").rstrip() if line.endswith(("},", "} ,")) or line == "," else line


def _object(text: str) -> Mapping[str, Any] | None:
    """The JSON object in a text, or None if it holds anything else."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _by_value(chunks: Iterator[str], name: str, report: ReadReport) -> Iterator[NumberedRow]:
    """Yield the objects of arrays, or of objects one after the other; after a broken one the next line is tried."""
    held, wanted, number, ended = "", 1, 0, False
    while True:
        parts = [held]
        while not ended and sum(map(len, parts)) < wanted:
            part = next(chunks, None)
            ended = part is None
            parts.append(part or "")
        held = "".join(parts).lstrip(_BETWEEN)
        if not held and ended:
            return
        if not held:
            continue
        try:
            value, end = _DECODER.raw_decode(held)
        except (ValueError, RecursionError) as error:
            if not ended and len(held) < MAX_VALUE_CHARACTERS and isinstance(error, ValueError):
                wanted = 2 * max(len(held), 1 << 16)
                continue
            number += 1
            report.skip(_BROKEN, f"{name}:{number}", "value")
            held = _after_broken(held)
            continue
        number, held, wanted = number + 1, held[end:], 1
        if isinstance(value, dict):
            yield number, value
        else:
            report.skip(_BROKEN, f"{name}:{number}", "value")


def _after_broken(held: str) -> str:
    """What follows a broken value: the next line that begins an object."""
    place = held.find("\n{", 1)
    return held[place + 1 :] if place >= 0 else ""
