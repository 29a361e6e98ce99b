"""The text around what is written: nothing for a continuation, the parts between the gaps when a prompt is filled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = re.compile("_{4,}")


@dataclass(frozen=True)
class Frame:
    """A prompt, and its literal parts where it has gaps: one more than there are gaps.

    Spaces before a gap belong to what fills it: a token begins with the space before its word.
    """

    prompt: str
    parts: tuple[str, ...] | None = None

    @classmethod
    def with_gaps(cls, prompt: str) -> Frame:
        """Find the gaps: stretches of four or more underscores."""
        return cls(prompt, tuple(_GAP.split(prompt)))

    @property
    def passages(self) -> int:
        """How many stretches are to be written."""
        return 1 if self.parts is None else len(self.parts) - 1

    def before(self, fills: Sequence[str]) -> str:
        """The text before the next stretch, given those that are written."""
        if self.parts is None:
            return self.prompt
        return self.text(fills) + self.parts[len(fills)].rstrip(" ")

    def after(self, passage: int) -> tuple[str, ...]:
        """The literal parts after a stretch, between which other gaps are still open; none for a continuation."""
        if self.parts is None:
            return ()
        *inner, last = self.parts[passage + 1 :]
        return (*(part.rstrip(" ") for part in inner), last)

    def certain(self, fills: Sequence[str], partial: str) -> str:
        """What will not change any more while the next stretch, of which `partial` is certain, is written."""
        return partial if self.parts is None else self.before(fills)

    def text(self, fills: Sequence[str]) -> str:
        """The whole once all stretches are written, or all that they and the parts before them make."""
        if self.parts is None:
            return "".join(fills)
        joined = "".join(_join(part, fill) for part, fill in zip(self.parts, fills, strict=False))
        return joined + self.parts[-1] if len(fills) == self.passages else joined


def _join(part: str, fill: str) -> str:
    """A literal part and what fills the gap after it: with the spaces that the part had, whatever the fill has."""
    fill = fill.strip(" ")
    return part + fill if fill else part.rstrip(" ")
