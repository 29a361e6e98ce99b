"""What a member reads around a canvas, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PADDING = -(1 << 40)  # the rank of a column that holds no token


@dataclass(frozen=True)
class Prompt:
    """Tokens before the canvas and, when a gap is to be filled, after it.

    after: None stands for a token that is not known yet, such as those of a later gap. gap: the number of positions
    between the two sides, a whole number of blocks. ValueError if something comes after no gap.
    """

    before: Sequence[int]
    after: Sequence[int | None] = ()
    gap: int = 0

    def __post_init__(self) -> None:
        if self.after and self.gap < 1:
            raise ValueError("tokens after the canvas need a gap before them")


def fit(prompt: Prompt, context: int, block: int) -> Prompt:
    """Cut a prompt to a window of `context` positions, of which the gap, or a block, is left free.

    What is far from the canvas goes first; where both sides are long, each keeps half of the room. ValueError if there
    is no room.
    """
    room = context - max(prompt.gap, block)
    if room < 1:
        raise ValueError(f"a gap of {prompt.gap} tokens leaves no room for a prompt in a window of {context}")
    after = prompt.after[: max(room // 2, room - len(prompt.before))]
    return Prompt(prompt.before[len(after) - room :], after, prompt.gap)


@dataclass(frozen=True)
class Layout:
    """A prompt's known tokens in the order in which they are read, with their positions and their blocks' ranks.

    canvas_at: the position of the canvas.
    """

    tokens: list[int]
    positions: list[int]
    ranks: list[int]
    canvas_at: int

    def columns(self, width: int) -> list[list[int]]:
        """Tokens, positions and ranks, each padded on the left to this width."""
        margin = width - len(self.tokens)
        return [[0] * margin + self.tokens, [0] * margin + self.positions, [PADDING] * margin + self.ranks]


def lay_out(prompt: Prompt, block: int) -> Layout:
    """Place a prompt: what comes before the canvas is read first, then what comes after it, block by block.

    The block grid of the one ends at the canvas, that of the other begins behind the gap.
    """
    before, start = len(prompt.before), len(prompt.before) + prompt.gap
    known = [(place, token) for place, token in enumerate(prompt.after) if token is not None]
    return Layout(
        tokens=[*prompt.before, *(token for _, token in known)],
        positions=[*range(before), *(start + place for place, _ in known)],
        ranks=[*(-(from_end // block) for from_end in range(before - 1, -1, -1)), *(1 + i // block for i, _ in known)],
        canvas_at=before,
    )
