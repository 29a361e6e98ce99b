"""What a member reads around a canvas, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

PADDING = -(1 << 40)  # the rank of a column that holds no token
HEARD = 64  # the last tokens of a prompt, by which several ensembles are judged (see `Switching`)


@dataclass(frozen=True)
class Prompt:
    """Tokens before the canvas and, when a gap is filled, after it. ValueError for tokens after it without a gap.

    before: ids.
    after: ids; None stands for a token that is not known yet, such as those of a later gap.
    gap: the number of positions between the two sides, a whole number of blocks.
    private: ids of a private context that is looked up, not read.
    """

    before: Sequence[int]
    after: Sequence[int | None] = ()
    gap: int = 0
    private: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.after and self.gap < 1:
            raise ValueError("tokens after the canvas need a gap before them")


def shown_to(model: object, prompt: Prompt) -> Prompt:
    """What a member's reader reads of a prompt."""
    own: Callable[[Prompt], Prompt] | None = getattr(model, "shown", None)
    return prompt if own is None else own(prompt)


def fit(prompt: Prompt, context: int, block: int) -> Prompt:
    """Cut a prompt to a window of `context` positions, of which the gap, or a block, is left free.

    Tokens far from the canvas go first; where both sides are long, each keeps half of the room. ValueError if there is
    no room.
    """
    room = context - max(prompt.gap, block)
    if room < 1:
        raise ValueError(f"a gap of {prompt.gap} tokens leaves no room for a prompt in a window of {context}")
    after = prompt.after[: max(room // 2, room - len(prompt.before))]
    return Prompt(prompt.before[len(after) - room :], after, prompt.gap)


@dataclass(frozen=True)
class ReadingOrder:
    """A prompt's known tokens in the order in which a model reads them.

    tokens: their ids.
    positions: their places in the text.
    ranks: when the block of each is read; the tokens of one rank see each other.
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


def reading_order(prompt: Prompt, block: int) -> ReadingOrder:
    """Order a prompt: the tokens before the canvas are read first, then those after it, block by block.

    On the left, blocks are counted back from the canvas, so that it begins a block of its own; on the right they are
    counted from the end of the gap.
    """
    before, start = len(prompt.before), len(prompt.before) + prompt.gap
    known = [(place, token) for place, token in enumerate(prompt.after) if token is not None]
    return ReadingOrder(
        tokens=[*prompt.before, *(token for _, token in known)],
        positions=[*range(before), *(start + place for place, _ in known)],
        ranks=[*(-(from_end // block) for from_end in range(before - 1, -1, -1)), *(1 + i // block for i, _ in known)],
        canvas_at=before,
    )
