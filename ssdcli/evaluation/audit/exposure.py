"""How much a model gives away of secrets that were planted in its training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exposure:
    """Of each planted canary, how often it was planted and its exposure in bits: (N,); `most` is what is possible."""

    times: np.ndarray
    bits: np.ndarray
    most: float

    @property
    def mean(self) -> float:
        """Over all canaries; 1.44 for a model that never saw them."""
        return float(self.bits.mean())

    def by_times(self) -> dict[int, float]:
        """Mean exposure of the canaries that were planted so often."""
        return {int(times): float(self.bits[self.times == times].mean()) for times in np.unique(self.times)}


def expose(planted: np.ndarray, candidates: np.ndarray, times: Sequence[int]) -> Exposure:
    """Rank each canary's loss (N,) among those of M random sentences of the same form (M,), all noised alike.

    Exposure is log2 |R| - log2 rank (Carlini et al., "The Secret Sharer", 2019), over a sample R of the candidates and
    the canary itself: at most log2(M + 1), which bounds from below what all possible candidates would give. Without
    memory the rank is uniform and the mean 1 / ln 2 = 1.44 bits, less a little; equal losses share the middle rank.
    """
    lower = (candidates < planted[:, None]).sum(1)
    equal = (candidates == planted[:, None]).sum(1)
    most = float(np.log2(len(candidates) + 1))
    return Exposure(np.asarray(times), most - np.log2(1 + lower + equal / 2), most)
