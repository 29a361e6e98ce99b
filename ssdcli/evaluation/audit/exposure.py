"""Exposure: how much a model reveals of secrets that were planted in its training text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exposure:
    """The exposure of N planted canaries.

    times: (N,), how often each was planted.
    bits: (N,), its exposure.
    most: the largest that the number of candidates allows.
    """

    times: np.ndarray
    bits: np.ndarray
    most: float

    @property
    def mean(self) -> float:
        """The mean over all canaries; 1.44 for a model that never saw them."""
        return float(self.bits.mean())

    def by_times(self) -> dict[int, float]:
        """The mean exposure of the canaries that were planted equally often."""
        return {int(times): float(self.bits[self.times == times].mean()) for times in np.unique(self.times)}


def expose(planted: np.ndarray, candidates: np.ndarray, times: Sequence[int]) -> Exposure:
    """Rank each canary's loss, (N,), among those of M random sentences of the same form, (M,), all noised alike.

    Exposure is log2 |R| - log2 rank (Carlini et al., "The Secret Sharer", 2019): the bits that knowing the model saves
    who guesses the secret. R is a sample of the candidates with the canary itself, so that exposure is at most
    log2(M + 1), and a lower bound of what all possible candidates would give.

    If the model remembers nothing, rank / |R| is uniform on (0, 1], and the mean of -log2 of it 1 / ln 2 = 1.44 bits (a
    little less, as ranks are whole numbers). Equal losses share the middle rank.
    """
    lower = (candidates < planted[:, None]).sum(1)
    equal = (candidates == planted[:, None]).sum(1)
    most = float(np.log2(len(candidates) + 1))
    return Exposure(np.asarray(times), most - np.log2(1 + lower + equal / 2), most)
