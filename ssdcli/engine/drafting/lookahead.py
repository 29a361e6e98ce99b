"""Several positions of a block at once, each predicted as if a draft were true up to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssdcli.engine.process.masked import Masked


@dataclass(frozen=True)
class Lookahead:
    """Neighbouring positions of canvases; each is predicted from what stands before it, with nothing known after it.

    canvas: (B, L) int64, with the tokens of the draft filled in, and masks after them.
    first: (B,) int64, the leftmost position that was hidden before the draft.
    drafted: (B,) int64, the tokens of the draft; -1 for a row of which no position is wanted.
    width: C, how many positions are predicted, from `first` on: the longest draft and one more.
    mask_id: the id that hides a token.
    """

    canvas: Tensor
    first: Tensor
    drafted: Tensor
    width: int
    mask_id: int

    @classmethod
    def of(cls, canvas: Tensor, draft: Tensor, done: Tensor, process: Masked) -> Lookahead:
        """After canvases (B, L) that are known up to their leftmost hidden position.

        draft: (B, k) int64, -1 from where on nothing is drafted. done: rows of which no position is wanted, (B,) bool.
        """
        hidden = canvas == process.mask_id
        first = (~hidden).long().cumprod(1).sum(1)
        columns = torch.arange(canvas.shape[1], device=canvas.device) - first[:, None]
        drafted = (draft >= 0).long().cumprod(1).sum(1).minimum(canvas.shape[1] - first)
        inside = (columns >= 0) & (columns < drafted[:, None])
        proposed = pad(draft, (0, 1), value=-1).gather(1, columns.clamp(0, draft.shape[1]))
        filled = torch.where(inside, proposed, canvas)
        return cls(filled, first, drafted.masked_fill(done, -1), draft.shape[1] + 1, process.mask_id)

    @classmethod
    def over(cls, tokens: Tensor, process: Masked) -> Lookahead:
        """All positions of clean canvases (B, L)."""
        first, length = tokens.new_zeros(len(tokens)), tokens.shape[1]
        return cls(tokens, first, first + length - 1, length, process.mask_id)

    @property
    def places(self) -> Tensor:
        """The positions, (B, C) int64; those beyond the canvas are its last."""
        columns = torch.arange(self.width, device=self.canvas.device)
        return (self.first[:, None] + columns).clamp(max=self.canvas.shape[1] - 1)

    @property
    def wanted(self) -> Tensor:
        """Which positions may get a token: those on the canvas up to the one after the draft, (B, C) bool."""
        columns = torch.arange(self.width, device=self.canvas.device)
        return (columns <= self.drafted[:, None]) & (self.first[:, None] + columns < self.canvas.shape[1])

    def canvases(self) -> Tensor:
        """For each position a canvas of its own, which is known up to it: (B, C, L) int64."""
        columns = torch.arange(self.canvas.shape[1], device=self.canvas.device)
        return torch.where(columns < self.places[..., None], self.canvas[:, None], self.mask_id)

    @property
    def left(self) -> Tensor:
        """How many tokens each row shows from the left, those of the draft included: (B,) int64."""
        return self.first + self.drafted.clamp(min=0)

    def rows(self, chosen: Tensor) -> Lookahead:
        """Some of the rows, (b,) int64."""
        return Lookahead(self.canvas[chosen], self.first[chosen], self.drafted[chosen], self.width, self.mask_id)


class Denoises(Protocol):
    """What predicts all positions of a canvas."""

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Any) -> Tensor:
        """Log p of the clean tokens: (B, L, V)."""


def one_by_one(model: Denoises, ahead: Lookahead, prefix: Any) -> Tensor:
    """Log p at the positions of a lookahead, a canvas for each: (B, C, V)."""
    rows, places = torch.arange(len(ahead.first), device=ahead.first.device), ahead.places
    canvases = ahead.canvases().unbind(1)
    parts = [model.denoise(one, 1.0, None, prefix)[rows, place] for one, place in zip(canvases, places.T, strict=True)]
    return torch.stack(parts, dim=1)
