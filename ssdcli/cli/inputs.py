"""What the commands read for models that write: the prompt, standard input, members, context files, or a batch."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.cli import console
from ssdcli.errors import UsageError
from ssdcli.generation.private_context import ContextFile
from ssdcli.generation.types import Request
from ssdcli.machine.units import counted
from ssdcli.options.declare import STREAM, option
from ssdcli.registry.names import NO_CORE
from ssdcli.text.messages import BETWEEN

if TYPE_CHECKING:
    from ssdcli.cli.batch import OddRow

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
        (),
        "A file or folder of private context, seen only by small models and memories. Repeatable.",
        metavar="FILE",
        common=True,
    )


def read_requests(prompt: str | None, batch: str | None, context: Sequence[Path]) -> list[Request | OddRow]:
    """The requests: the rows of a batch, or one prompt, each with the private context of the files."""
    parts = _context_parts(context)
    private, files = BETWEEN.join(text for _, text in parts), tuple(file for file, _ in parts)
    if batch is None:
        return [Request(read_prompt(prompt), private, files=files)]
    from ssdcli.cli.batch import read_batch  # a single prompt needs none of its readers

    if batch == STREAM:
        rows = read_batch("" if sys.stdin is None else _read_standard_input(), "standard input", private)
    else:
        rows = read_batch(_read_file(Path(batch).expanduser(), "batch file"), batch, private)
    return [replace(row, files=files) if isinstance(row, Request) else row for row in rows]


def read_prompt(argument: str | None) -> str:
    """Standard input, unless it is a terminal, and the argument, with an empty line between them."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _without_last_line_end(_read_standard_input())
    return BETWEEN.join(part for part in (piped, _given(argument or "")) if part)


def _given(argument: str) -> str:
    """An argument as text; bytes that Python could not decode are read like those of a file."""
    if argument.isprintable() or not any("\udc80" <= character <= "\udcff" for character in argument):
        return argument
    return _as_text(os.fsencode(argument), "the prompt")


def read_context(paths: Sequence[Path]) -> str:
    """The texts of files and folders with empty lines between them; UsageError names what cannot be read."""
    return BETWEEN.join(text for _, text in _context_parts(paths))


def _context_parts(paths: Sequence[Path]) -> list[tuple[ContextFile, str]]:
    """The texts of files, and of the documents of folders, that have any; a warning names a path without."""
    parts: list[tuple[ContextFile, str]] = []
    for path in paths:
        own = _folder_parts(path) if path.is_dir() else [(str(path), 1, _read_file(path, "context file"))]
        stripped = [(name, first, _without_last_line_end(text)) for name, first, text in own if text.strip()]
        if not stripped:
            console.warn(f"the context {'folder' if path.is_dir() else 'file'} {str(path)!r} has no text.")
        parts += [(ContextFile(name, text.count("\n") + 1, first), text) for name, first, text in stripped]
    return parts


def _folder_parts(path: Path) -> list[tuple[str, int, str]]:
    """The documents of a folder, each with its file and the line at which it begins; what is skipped is told."""
    from ssdcli.data.documents import ReadReport
    from ssdcli.data.readers.files import read_documents

    report = ReadReport()
    found = [(document.source, document.line, document.text) for document in read_documents([str(path)], report)]
    for sentence in report.lines()[1:]:
        console.warn(f"{sentence}.")
    return found


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
    from ssdcli.machine.encodings import decode_bytes

    found = decode_bytes(data)
    if found.encoding != "UTF-8":
        console.warn(f"{source} is not in UTF-8; it was read as {found.encoding}.")
    if found.replaced:
        console.warn(f"{counted(found.replaced, 'invalid character')} of {source} had to be replaced.")
    return found.text


def _without_last_line_end(text: str) -> str:
    """Drop the line end at the end of a text file, so that an answer continues the prompt's last line."""
    return text.removesuffix("\n").removesuffix("\r")
