"""What a private context is made of, and where the passages stand that were kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.registry.names import CONTEXT_SOURCE


@dataclass(frozen=True)
class ContextFile:
    """One of the texts that a private context is made of, with empty lines between them.

    name: as it is told.
    lines: how many of the context it has.
    first: the line of the file at which it begins, from 1.
    """

    name: str
    lines: int
    first: int = 1


@dataclass(frozen=True)
class Kept:
    """A passage of a private context that was kept: its text, its file, and its lines there, from 1."""

    file: str
    first: int
    last: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first}" + (f"-{self.last}" if self.last > self.first else "")


@dataclass(frozen=True)
class Picked:
    """What was kept of a private context.

    passages: in the context's order; there may be none.
    share: their tokens, as a share of the context's.
    """

    passages: tuple[Kept, ...]
    share: float

    def __str__(self) -> str:
        places = ", ".join(map(str, self.passages))
        return f"kept {self.share:.1%} of the context: {places}" if places else "kept nothing of the context"


def kept_of(text: str, first: int, last: int, files: Sequence[ContextFile]) -> Kept:
    """A passage by its lines of a context, which begins with these files; those of none are counted behind them."""
    for file in files:
        if first <= file.lines:
            return Kept(file.name, file.first + first - 1, file.first + last - 1, text)
        first, last = first - file.lines - 1, last - file.lines - 1  # an empty line is between two
    return Kept(CONTEXT_SOURCE, first, last, text)
