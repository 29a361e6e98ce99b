"""The two streams: answers go to standard output, everything else to standard error."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

_T = TypeVar("_T")

SHEET = 80  # columns of what is written in headings and lines


@dataclass
class _Mode:
    quiet: bool = False
    debug: bool = False


# A process has one terminal, so its settings are module state, which only `configure` changes.
_MODE = _Mode()


def configure(*, quiet: bool, debug: bool) -> None:
    """Apply -q and --debug."""
    _MODE.quiet = quiet
    _MODE.debug = debug
    terminal.cache_clear()


class Unwritable(OSError):
    """Standard output takes no more."""


def open_streams() -> bool:
    """Make the standard streams write what their encoding lacks as replacements; returns whether there is an output.

    A standard error that is closed is replaced by none.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process runs
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)
    return sys.stdout is not None


def write(text: str, end: str = "\n") -> None:
    """Write a block of the answer to standard output, at once; Unwritable if that fails but for a closed pipe."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(error.errno, error.strerror) from error


def write_json(value: object) -> None:
    """Write one JSON value on one line of standard output."""
    write(json.dumps(value, ensure_ascii=not _writes_all()))


def _writes_all() -> bool:
    """Whether standard output can write every character, so that JSON needs no escapes."""
    return (sys.stdout.encoding or "utf-8").lower().replace("-", "") in ("utf8", "utf8sig", "utf16", "utf32")


def write_table(rows: Sequence[Sequence[str]]) -> None:
    """Write rows of texts in aligned columns to standard output."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_sheet(rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write headings, each beside its lines, to standard output; long lines go on below, in 80 columns."""
    indent = max(len(heading) for heading, _ in rows) + 2
    for heading, lines in rows:
        wrapped = [part for line in lines for part in _wrapped(line, SHEET - indent)]
        for place, part in enumerate(wrapped):
            write(f"{heading if place == 0 else '':<{indent}}{part}".rstrip())


def _wrapped(line: str, width: int) -> list[str]:
    """A line in parts, the further ones as far in as it is; what is to be copied, such as a path, is never broken."""
    inner = " " * (len(line) - len(line.lstrip(" ")))
    return wrap(line, width, subsequent_indent=inner, break_long_words=False, break_on_hyphens=False) or [""]


def is_lively() -> bool:
    """Whether standard error may carry more than warnings and errors."""
    return sys.stderr.isatty() and not _MODE.quiet


def takes_escapes(stream: TextIO) -> bool:
    """Whether a stream is a terminal that understands escape sequences, and colours are wanted."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def note(sentence: str) -> None:
    """Write a remark to standard error if it is a terminal and -q is off."""
    if is_lively():
        _say(sentence)


def can_ask() -> bool:
    """Whether someone at a terminal can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def agrees(question: str) -> bool:
    """Ask on standard error and return whether the answer was yes."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def warn(sentence: str) -> None:
    """Write a warning to standard error, even in a pipeline."""
    _say(f"ssd: warning: {sentence}")


def fail(message: str, error: BaseException | None = None) -> None:
    """Write one line on what ended the command, with --debug after the error's traceback."""
    if _MODE.debug and error is not None:
        traceback.print_exception(error)
    _say(f"ssd: {_continued(' '.join(message.split()))}")


def _continued(sentence: str) -> str:
    """The sentence as it continues after the program's name: in lower case, unless it begins with an abbreviation."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


@cache
def terminal() -> Console:
    """Rich's console on standard error, for progress bars and animation; it is silent if that is not a terminal."""
    from rich.console import Console

    return Console(stderr=True, quiet=not is_lively())


@contextmanager
def progress(subject: str = "") -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar if standard error is a terminal; yields a callback (task, share done), 0 if unknown."""
    from rich.progress import Progress

    with Progress(console=terminal(), transient=True) as bar:
        task = bar.add_task(f"{subject}: loading" if subject else "loading", total=None)

        def show(doing: str, share: float) -> None:
            bar.tasks[0].total = 1.0 if share else None  # a bar without a total pulses
            bar.update(task, description=f"{subject}: {doing}" if subject else doing, completed=share)

        yield show


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Say what a wait is for if standard error is a terminal; nothing is written to standard output meanwhile."""
    if not is_lively():
        yield
        return
    with terminal().status(doing):
        yield


def begun(items: Iterable[_T], doing: str) -> Iterator[_T]:
    """Yield items, and say what the wait for the first one is for."""
    iterator = iter(items)
    with waiting(doing):
        first = list(islice(iterator, 1))
    yield from chain(first, iterator)


def awaited(items: Iterable[_T], doing: str) -> Iterator[_T]:
    """Yield items, and say what the wait for each of them is for."""
    iterator = iter(items)
    while True:
        with waiting(doing):
            item = list(islice(iterator, 1))
        if not item:
            return
        yield from item


def abandon_streams() -> None:
    """Discard further output, after the reader of a pipe has closed it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream in memory has no number
            os.dup2(nowhere, stream.fileno())


def _say(line: str) -> None:
    with suppress(OSError):  # nobody listens
        sys.stderr.write(line.encode("utf-8", "replace").decode("utf-8") + "\n")
        sys.stderr.flush()
