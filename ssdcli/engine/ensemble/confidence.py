"""Confidence: how likely a text is to be what the user's own text says there, by its probability. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_LEAST = 1e-12  # of a probability and its complement, so that their log-odds are finite


@dataclass(frozen=True)
class Confidence:
    """How likely tokens are to be right, by the probabilities that an ensemble gave them; as they are by default.

    The log-odds of being right are offset + slope * (the log-odds of the probability): Platt (1999).
    """

    offset: float = 0.0
    slope: float = 1.0

    def of(self, p: Iterable[float]) -> float:
        """The probability that all tokens are right, of which each was predicted given those before it."""
        return math.prod(map(self._of_token, p))

    def _of_token(self, p: float) -> float:
        if (self.offset, self.slope) == (0.0, 1.0):
            return p
        p = min(max(p, _LEAST), 1 - _LEAST)
        odds = self.offset + self.slope * math.log(p / (1 - p))
        return (1 + math.tanh(odds / 2)) / 2  # the logistic function, which overflows in no direction
