"""Losses of alternatives on the same documents, and the best of them, chosen on other documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdcli.evaluation.losses import Losses


@dataclass(frozen=True)
class Columns:
    """Summed losses of D documents under W alternatives.

    sums: (D, W) in nats.
    tokens: (D,).
    """

    sums: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, losses: Losses) -> Columns:
        """The losses at each weight."""
        return cls(losses.sums, losses.tokens)

    def crossed(self, places: Sequence[int]) -> tuple[np.ndarray, tuple[int, int]]:
        """Losses (D,) of the best of some columns, and which these are: each half of the documents by the other's.

        So no document has a say in the choice that it is judged by. Documents of even number are the first half.
        """
        halves = np.arange(len(self.tokens)) % 2
        first, second = (places[int(self.sums[halves == half][:, places].sum(0).argmin())] for half in (1, 0))
        return np.where(halves == 0, self.sums[:, first], self.sums[:, second]), (first, second)

    def mean(self, sums: np.ndarray) -> tuple[float, float]:
        """Nats per token of losses (D,) and the standard error: a ratio estimator over independent documents."""
        mean = sums.sum() / self.tokens.sum()
        return float(mean), float(np.sqrt(((sums - mean * self.tokens) ** 2).sum()) / self.tokens.sum())

    def loss(self, place: int) -> tuple[float, float]:
        """Nats per token of a column, and the standard error."""
        return self.mean(self.sums[:, place])

    def gain(self, place: int, over: int) -> tuple[float, float]:
        """What a column loses less than another in nats per token, and the standard error, paired by document."""
        return self.mean(self.sums[:, over] - self.sums[:, place])


@dataclass(frozen=True)
class Collaboration:
    """Losses of two members and their ensemble in nats per token, and the gain over the better member."""

    core: float
    small: float
    both: float
    gain: float
    error: float


def collaborate(columns: Columns, core: int, small: int, mixtures: Sequence[int]) -> tuple[Collaboration, list[int]]:
    """Compare two members with the best mixture, and name the columns of it: chosen on one half for the other."""
    both, chosen = columns.crossed(mixtures)
    better = min((core, small), key=lambda place: columns.sums[:, place].sum())
    gain, error = columns.mean(columns.sums[:, better] - both)
    losses = columns.loss(core)[0], columns.loss(small)[0], columns.mean(both)[0]
    return Collaboration(*losses, gain, error), list(chosen)
