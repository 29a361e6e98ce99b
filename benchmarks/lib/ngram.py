"""An n-gram language model with Witten-Bell back-off, which counts some notes in a second."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

ORDER = 5  # tokens of the longest context


class NGram:
    """Counts of tokens after contexts of up to `order` tokens (Witten and Bell, 1991)."""

    def __init__(self, notes: Sequence[Sequence[int]], vocabulary: int, order: int = ORDER) -> None:
        """Count the notes; no context reaches from one into another."""
        self.vocabulary, self.order = vocabulary, order
        self._counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for note in notes:
            for place, token in enumerate(note):
                for length in range(min(order, place) + 1):
                    self._counts[tuple(note[place - length : place])][token] += 1
        self._totals = {context: counts.total() for context, counts in self._counts.items()}

    def p(self, context: Sequence[int], token: int) -> float:
        """The probability of a token after a context, whose last `order` tokens count."""
        p = 1 / self.vocabulary
        for length in range(min(self.order, len(context)) + 1):
            counts = self._counts.get(tuple(context[len(context) - length :]))
            if counts is None:
                break
            # The number of kinds of tokens seen here is the weight of the shorter context.
            p = (counts[token] + len(counts) * p) / (
                self._totals[tuple(context[len(context) - length :])] + len(counts)
            )
        return p

    def nats(self, text: Sequence[int]) -> list[float]:
        """-log p of every token of a text after the first."""
        return [-math.log(self.p(text[:place], text[place])) for place in range(1, len(text))]
