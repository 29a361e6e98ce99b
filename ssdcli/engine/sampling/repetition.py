"""Less repetition of known text: repeated tokens become less likely, and repeated n-grams impossible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import predicted, readable

Places = tuple[Tensor, Tensor]  # the rows and the positions of K places on canvases: (K,) int64 each

_UNKNOWN = -1


@dataclass(frozen=True)
class KnownText:
    """A canvas and the text around it, as far as they are known.

    tokens: (B, N) int64, below zero where no token is known.
    start: the column of the canvas's first position.
    length: L.
    """

    tokens: Tensor
    start: int
    length: int

    @property
    def canvas(self) -> Tensor:
        """What the canvas shows, (B, L) int64."""
        return self.tokens[:, self.start : self.start + self.length]

    def agreeing(self, places: Places, side: int, most: int) -> Tensor:
        """How many neighbours in a row, up to `most`, K places on the canvas share with each column: (K, N) int64.

        Neighbours are counted on the left for a `side` of -1, on the right for 1. A place is taken to hold the token of
        the column that it is compared with, even where it is itself a neighbour of that column.
        """
        rows, positions = places
        tokens, here = self.tokens[rows], self.start + positions[:, None]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        padded = torch.nn.functional.pad(tokens, (most, most), value=_UNKNOWN)
        unbroken = torch.ones_like(tokens, dtype=torch.bool)
        total = torch.zeros_like(tokens)
        for distance in range(side, side * (most + 1), side):
            neighbour = padded.gather(1, here + most + distance)
            others = padded[:, most + distance :][:, : len(columns)]
            others = torch.where(columns + distance == here, tokens, others)
            unbroken = unbroken & (neighbour == others) & (neighbour >= 0)
            if readable(unbroken) and not unbroken.any():
                break
            total += unbroken
        return total


@dataclass(frozen=True)
class SharedText:
    """What all members may see around a canvas; never a private context.

    before: (B, P) int64, padded on the left with numbers below zero.
    after: (B, A) int64, below zero where a token is not known, and in the first column: a gap's text may be shorter
        than the gap.
    """

    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> SharedText:
        """The prompts of a batch, one a row."""
        before = _padded([list(prompt.before)[::-1] for prompt in prompts], device).flip(1)
        known = [[_UNKNOWN if token is None else token for token in prompt.after] for prompt in prompts]
        return cls(before, _padded([[_UNKNOWN, *row] for row in known], device))

    def on(self, device: torch.device | str) -> SharedText:
        """The same on a device."""
        return SharedText(self.before.to(device), self.after.to(device))

    def rows(self, chosen: Tensor) -> SharedText:
        """Of some rows, (b,) int64."""
        return SharedText(self.before[chosen], self.after[chosen])

    def around(self, written: Tensor, canvas: Tensor, shown: Tensor) -> KnownText:
        """With the tokens written so far (B, n), and those of a canvas (B, L) that it shows: (B, L) bool."""
        tokens = torch.cat([self.before, written, canvas.where(shown, _UNKNOWN), self.after], dim=1)
        return KnownText(tokens, self.before.shape[1] + written.shape[1], canvas.shape[1])


def _padded(rows: Sequence[Sequence[int]], device: torch.device | str) -> Tensor:
    width = max(map(len, rows), default=0)
    padded = [[*row, *[_UNKNOWN] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.int64, device=device).view(len(rows), width)


@dataclass(frozen=True)
class Repetition:
    """How repetition is discouraged, as by transformers' logits processors of the same names.

    penalty: the repetition penalty, above 0; 1 for none.
    no_repeat: n, where no n-gram of known text is repeated; 0 to allow all.
    """

    penalty: float = 1.0
    no_repeat: int = 0

    @property
    def off(self) -> bool:
        """Whether predictions stay as they are."""
        return self.penalty == 1 and self.no_repeat == 0

    def apply(self, log_p: Tensor, text: KnownText, open_: Tensor) -> Tensor:
        """Log p (B, L, V) with less repetition, renormalised: the penalty comes first, then the n-grams.

        open_: the positions, (B, L) bool, whose tokens are not certain. The others, and those that no member predicts,
            stay as they are.
        """
        places = places_of(open_ & predicted(log_p))
        return log_p.index_put(places, self.at(log_p[places], text, places))

    def at(self, log_p: Tensor, text: KnownText, places: Places) -> Tensor:
        """Log p at K places, (K, V), with less repetition, renormalised."""
        if self.penalty != 1:
            log_p = torch.log_softmax(_penalised(log_p, text, places, self.penalty), dim=-1)
        return _without_repeats(log_p, text, places, self.no_repeat) if self.no_repeat else log_p


ALLOWED = Repetition()


def places_of(wanted: Tensor) -> Places:
    """The positions (B, L) bool that are wanted; all of them on a GPU, where asking would make the host wait."""
    if readable(wanted):
        rows, columns = wanted.nonzero(as_tuple=True)
        return rows, columns
    count, length = wanted.shape
    rows, columns = (torch.arange(size, device=wanted.device) for size in (count, length))
    return rows.repeat_interleave(length), columns.repeat(count)


def _penalised(log_p: Tensor, text: KnownText, places: Places, penalty: float) -> Tensor:
    """Logits at K positions, (K, V), divided by the penalty, or multiplied if negative, for tokens known elsewhere.

    The penalty depends on where logits are zero (Keskar et al., "CTRL", 2019), and an ensemble's logits are known only
    up to a constant. Here a token that is as likely as under the uniform distribution has a logit of zero.
    """
    rows, _ = places
    logits = log_p + math.log(log_p.shape[-1])
    known = text.tokens.clamp(min=0)
    counts = log_p.new_zeros(len(known), log_p.shape[-1]).scatter_add_(1, known, (text.tokens >= 0).to(log_p.dtype))
    shown = text.canvas[places]
    own = shown.clamp(min=0)[:, None]
    # A token that only this position shows is not repeated by keeping it.
    elsewhere = counts[rows].scatter_add_(1, own, -(shown >= 0).to(log_p.dtype)[:, None]) > 0
    return torch.where(elsewhere, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def _without_repeats(log_p: Tensor, text: KnownText, places: Places, n: int) -> Tensor:
    """Log p at K positions, (K, V), without the tokens that would complete a repeated n-gram, renormalised.

    Where no token would be left, and where none is excluded, log p stays as it is.
    """
    repeats = _repeats(text, places, n)
    if readable(repeats) and not repeats.any():
        return log_p
    ids = text.tokens.clamp(min=0)[places[0]]
    highest = torch.where(repeats, -math.inf, math.inf)
    rest = torch.log_softmax(log_p.scatter_reduce(-1, ids, highest, "amin"), dim=-1)
    changed = repeats.any(-1, keepdim=True) & ~rest.isnan().all(-1, keepdim=True)
    return torch.where(changed, rest, log_p)


def _repeats(text: KnownText, places: Places, n: int) -> Tensor:
    """At which of K places the token of a column would complete a repeated n-gram: (K, N) bool.

    With that token, a place and its neighbours repeat the column and its own as far as they agree on both sides.
    n-grams are completed from the right and in the middle, too, since a canvas need not be filled from the left.
    """
    rows, positions = places
    tokens, here = text.tokens[rows], text.start + positions[:, None]
    columns = torch.arange(tokens.shape[1], device=tokens.device)
    # If a canvas already shows two copies, only the later one may change: otherwise both would change at once.
    later = (columns > here) & (columns < text.start + text.length)
    kept = (tokens.gather(1, here) == tokens) & later
    known = (tokens >= 0) & (columns != here) & ~kept
    return known & (text.agreeing(places, -1, n - 1) + text.agreeing(places, 1, n - 1) >= n - 1)
