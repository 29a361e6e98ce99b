"""Losses of many ways on the same documents, and what the best of some is worth when it is chosen elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdcli.evaluation.losses import Losses

Array = np.ndarray


@dataclass(frozen=True)
class Columns:
    """Summed losses of D documents in W ways, in nats: sums (D, W), tokens (D,)."""

    sums: Array
    tokens: Array

    @classmethod
    def of(cls, losses: Losses) -> Columns:
        """The columns of losses over weights."""
        return cls(losses.sums, losses.tokens)

    def crossed(self, places: Sequence[int]) -> tuple[Array, tuple[int, int]]:
        """Losses (D,) in the best of some columns, and which those are: each half of the documents by the other's.

        So no document has a say in the choice that it is judged by. Documents of even number are the first half.
        """
        halves = np.arange(len(self.tokens)) % 2
        first, second = (places[int(self.sums[halves == half][:, places].sum(0).argmin())] for half in (1, 0))
        return np.where(halves == 0, self.sums[:, first], self.sums[:, second]), (first, second)

    def mean(self, sums: Array) -> tuple[float, float]:
        """Nats per token of losses (D,), and the standard error, documents being the independent draws."""
        mean = sums.sum() / self.tokens.sum()
        return float(mean), float(np.sqrt(((sums - mean * self.tokens) ** 2).sum()) / self.tokens.sum())


@dataclass(frozen=True)
class Collaboration:
    """What two members and their ensemble lose, in nats per token; the gain is that over the better member."""

    core: float
    small: float
    both: float
    gain: float
    error: float

    @property
    def relative(self) -> float:
        """The gain in percent of the better member's loss."""
        return 100 * self.gain / min(self.core, self.small)


def collaborate(columns: Columns, core: int, small: int, mixtures: Sequence[int]) -> tuple[Collaboration, list[int]]:
    """Compare the members' columns with the best mixture, and with which ones: chosen by one half for the other."""
    both, chosen = columns.crossed(mixtures)
    better = min((core, small), key=lambda place: columns.sums[:, place].sum())
    gain, error = columns.mean(columns.sums[:, better] - both)
    core_loss, small_loss, loss = (
        columns.mean(sums)[0] for sums in (columns.sums[:, core], columns.sums[:, small], both)
    )
    return Collaboration(core_loss, small_loss, loss, gain, error), list(chosen)
