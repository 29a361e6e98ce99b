"""What one row writes: its tokens as text, block by block, up to its end, a stop string or its last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

FinishReason = Literal["end", "stop", "length"]

_UNFINISHED = "\ufffd"  # what a decoder shows in place of a character whose last bytes are still to come


@dataclass(frozen=True)
class Limits:
    """Where a text ends: at an id of `ends`, before a string of `stop`, or after `max_tokens` tokens."""

    ends: frozenset[int]
    max_tokens: int
    stop: tuple[str, ...] = ()


class Transcript:
    """The text of one row; what a later block could still take back or complete is not shown yet."""

    def __init__(self, decode: Callable[[Sequence[int]], str], limits: Limits) -> None:
        """`decode` turns the ids of a whole text into characters, special tokens skipped."""
        self._decode = decode
        self._limits = limits
        self._ids: list[int] = []
        self.text = ""
        self.finish_reason: FinishReason | None = None if limits.max_tokens > 0 else "length"

    @property
    def tokens(self) -> int:
        """How many tokens were written, the one that completed a stop string being the last."""
        return len(self._ids)

    def pieces(self, start: int) -> list[tuple[int, str]]:
        """The ids written from `start` on, each with the text that it completed."""
        text = self._written(self._ids) if self.finish_reason is None else self.text
        ends = [len(self._written(self._ids[:n])) for n in range(start, len(self._ids) + 1)]
        return [(id, text[a:b]) for id, (a, b) in zip(self._ids[start:], pairwise(ends), strict=True)]

    def add(self, block: Sequence[int]) -> str:
        """Take the ids of a committed block and return the text that is certain now and was not before."""
        known = len(self._ids)
        self._take(block)
        written = self._written(self._ids)
        cut = self._first_stop(written)
        if cut is not None:
            self.finish_reason = "stop"
            self._ids = self._ids[: self._tokens_to_stop(known)]
            written = written[:cut]
        elif self.finish_reason is None:
            written = written[: len(written) - self._undecided(written)]
        new = written[len(self.text) :]
        self.text += new
        return new

    def _take(self, block: Sequence[int]) -> None:
        """Append the ids up to the first end of text or the last one allowed."""
        fresh = list(block[: self._limits.max_tokens - len(self._ids)])
        end = next((place for place, id in enumerate(fresh) if id in self._limits.ends), None)
        if end is not None:
            self.finish_reason = "end"
            fresh = fresh[:end]
        elif len(self._ids) + len(fresh) == self._limits.max_tokens:
            self.finish_reason = "length"
        self._ids += fresh

    def _written(self, ids: Sequence[int]) -> str:
        return self._decode(ids).rstrip(_UNFINISHED)

    def _first_stop(self, text: str) -> int | None:
        """The place of the earliest stop string."""
        return min((place for stop in self._limits.stop if (place := text.find(stop)) >= 0), default=None)

    def _tokens_to_stop(self, known: int) -> int:
        """The least number of tokens, more than `known`, whose text holds a stop string."""
        counts = range(known + 1, len(self._ids) + 1)
        return next(n for n in counts if self._first_stop(self._written(self._ids[:n])) is not None)

    def _undecided(self, text: str) -> int:
        """The length of the longest end of the text that a stop string may begin with."""
        longest = max(map(len, self._limits.stop), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._limits.stop)), 0)
