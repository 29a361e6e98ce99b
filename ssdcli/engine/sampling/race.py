"""Tokens drawn by a race: the noise belongs to a place of the text and a token, not to the draw.

The exponential variates E_w, each divided by the probability p(w), are arrival times; the first to arrive has the
distribution p. It is the argmax of log p(w) + g_w with Gumbel noise g_w = -log E_w. Two draws at one place by
distributions that are alike mostly choose the same token, and a drafter's token can be verified without knowing what
the drafter believed (drafter-invariant speculation, Daliri, Musco and Suresh, 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.nucleus import Picker, most_rounds, readable, total

_TEXT = 1 << 35  # the word that names the noise of a text's places, which are numbered from 0
_MARGIN = 0.99  # for rounding


@dataclass(frozen=True)
class Race:
    """How the tokens of a block are drawn.

    picker: temperature, nucleus and min-p.
    noise: of the text, a row each.
    start: the place of the block's first token in the text.
    """

    picker: Picker
    noise: CounterNoise
    start: int

    @classmethod
    def of(cls, picker: Picker, noise: CounterNoise, start: int) -> Race:
        """For a block that begins at this place of texts with this noise."""
        return cls(picker, noise.derive(_TEXT), start)

    def winners(self, log_p: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """The tokens at N places of a block, drawn from the nucleus of log p (N, V): (N,) int64.

        rows: the row of each, (N,) int64. places: where it is in the block, (N,) int64.
        """
        if self.picker.temperature == 0:
            return log_p.argmax(-1)
        p = self.picker.weights(log_p)
        speeds = _speeds(p, self.noise.at(rows, self.start + places), self.picker.top_p)
        return speeds.argmax(-1) if self.picker.top_p >= 1 else _first_inside(p, speeds, self.picker.top_p)

    def winner(self, ids: Tensor, log_p: Tensor, row: int, place: int) -> int:
        """The place among some ids (T,) int64 of the one that wins by log p (T,), as if there were no others."""
        if self.picker.temperature == 0:
            return int(log_p.argmax())
        noise = self.noise.at(torch.tensor([row]), torch.tensor([self.start + place]))
        return int((log_p / self.picker.temperature - noise.exponential(ids)[0].log()).argmax())


def _speeds(p: Tensor, noise: CounterNoise, top_p: float) -> Tensor:
    """P / E of all tokens that may be in the nucleus, zero elsewhere: (N, V) float32.

    Tokens below (1 - top-p) / V hold less than 1 - top-p together, and so none of them is in the nucleus.
    """
    if not readable(p) or top_p >= 1:
        return p / noise.exponential(torch.arange(p.shape[1], device=p.device))
    rows, ids = (p > _MARGIN * (1 - top_p) / p.shape[1]).nonzero(as_tuple=True)
    return torch.zeros_like(p).index_put_((rows, ids), p[rows, ids] / noise.exponential(ids, rows))


def _first_inside(p: Tensor, speeds: Tensor, top_p: float) -> Tensor:
    """The fastest token of each nucleus: p and speeds (N, V), the latter overwritten; returns (N,) int64.

    A token is in the nucleus if the strictly likelier ones hold less than `top_p`. If the fastest is not, neither is
    any that is no likelier: these leave the race. How many rounds that takes is bounded as in `Picker.draw`.
    """
    chosen, open_ = p.argmax(-1), torch.ones_like(p[:, 0], dtype=torch.bool)
    for _ in range(most_rounds(top_p, p.shape[1])):
        fastest = speeds.argmax(-1)
        likelier = torch.gt(p, p.gather(1, fastest[:, None]), out=torch.empty_like(p))  # float32: see keep_nucleus
        inside = total(likelier * p) < top_p
        chosen = torch.where(open_ & inside, fastest, chosen)
        open_ = open_ & ~inside
        if readable(open_) and not bool(open_.any()):
            break
        speeds.mul_(likelier)
    return chosen
