"""Ways to smooth what followed contexts of growing length in some notes and in the text that is being written."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssdcli.models.memory.text_index import BORDER, Followers, Index

DEEPEST = 16  # tokens of a context

_ODD = np.uint64(0x9E3779B97F4A7C15)

Floats = np.ndarray


@dataclass(frozen=True)
class Discounts:
    """What is taken from counts of 1, of 2, and of 3 and more."""

    one: float
    two: float
    more: float

    def taken(self, counts: np.ndarray) -> Floats:
        """What is taken from each of some counts."""
        return np.where(counts == 1, self.one, np.where(counts == 2, self.two, self.more))

    @classmethod
    def estimated(cls, index: Index, length: int) -> Discounts:
        """Those of modified Kneser-Ney (Chen and Goodman, 1999) for contexts of this length."""
        once, twice, thrice, four = (max(1, n) for n in _counts_of_counts(index, length))
        y = once / (once + 2 * twice)
        found = (1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice)
        one, two, more = (min(max(value, 0.05), most) for value, most in zip(found, (0.95, 1.95, 2.95), strict=True))
        return cls(one, two, more)


def _counts_of_counts(index: Index, length: int) -> list[int]:
    """How many runs of a context of this length and a token occur once, twice, three and four times."""
    tokens = index.tokens.astype(np.uint64)
    keys = np.zeros(len(tokens) - length, np.uint64)
    inside = np.ones(len(keys), bool)
    for distance in range(length + 1):
        part = slice(distance, len(tokens) - length + distance)
        keys = keys * _ODD + tokens[part] + np.uint64(1)
        inside &= index.tokens[part] != BORDER
    _, counts = np.unique(keys[inside], return_counts=True)
    return [int((counts == n).sum()) for n in range(1, 5)]


@dataclass(frozen=True)
class Smoothing:
    """A way to smooth.

    discount: what is taken from every count; None for Witten-Bell, "estimated" for Discounts of each length.
    depth: tokens of the longest context.
    shortest: tokens of the shortest context that is looked up in the text being written; None for none.
    """

    discount: float | str | None
    depth: int
    shortest: int | None


WAYS: Mapping[str, Smoothing] = {
    "Witten-Bell, 5 tokens, without the text being written": Smoothing(None, 5, None),
    "Witten-Bell, 8 tokens": Smoothing(None, 8, 3),
    "discount 0.65, 8 tokens, without the text being written": Smoothing(0.65, 8, None),
    "discount 0.65, 8 tokens, its contexts from 2": Smoothing(0.65, 8, 2),
    "discount 0.65, 8 tokens, its contexts from 3 (chosen)": Smoothing(0.65, 8, 3),
    "discount 0.65, 8 tokens, its contexts from 4": Smoothing(0.65, 8, 4),
    "discount 0.5, 8 tokens": Smoothing(0.5, 8, 3),
    "discount 0.8, 8 tokens": Smoothing(0.8, 8, 3),
    "discount 0.65, 5 tokens": Smoothing(0.65, 5, 3),
    "discount 0.65, 16 tokens": Smoothing(0.65, 16, 3),
    "three discounts a length, estimated, 8 tokens": Smoothing("estimated", 8, 3),
}
CHOSEN = "discount 0.65, 8 tokens, its contexts from 3 (chosen)"
YARDSTICK = next(iter(WAYS))


@dataclass
class Written:
    """What followed contexts of 2 and more tokens in a text so far."""

    tokens: list[int] = field(default_factory=lambda: [BORDER])
    _after: dict[tuple[int, ...], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))

    def append(self, token: int) -> None:
        """Count a token."""
        for length in range(2, min(DEEPEST, len(self.tokens)) + 1):
            self._after[tuple(self.tokens[-length:])][token] += 1
        self.tokens.append(token)

    def followers(self) -> Iterator[Followers]:
        """What followed the last 2 tokens, the last 3, up to the longest context that occurred."""
        for length in range(2, min(DEEPEST, len(self.tokens)) + 1):
            counts = self._after.get(tuple(self.tokens[-length:]))
            if counts is None:
                return
            ids = sorted(counts)
            yield Followers(length, np.array(ids), np.array([counts[id] for id in ids]))


@dataclass(frozen=True)
class Said:
    """What the ways to smooth say of N tokens: log p of the clean token and the entropy, (N, W) float64 each."""

    log_p: Tensor
    entropies: Tensor


def smoothed(texts: Sequence[Sequence[int]], indexes: Sequence[Index], vocabulary: int, chosen: Tensor) -> Said:
    """What all WAYS say of the chosen tokens, (N,) bool; indexes: of each text, DEEPEST tokens deep."""
    log_p, entropies, place = [], [], 0
    discounts: dict[int, list[Discounts]] = {}
    for text, index in zip(texts, indexes, strict=True):
        written = Written()
        if id(index) not in discounts:
            discounts[id(index)] = [Discounts.estimated(index, length) for length in range(DEEPEST + 1)]
        for token in text:
            if chosen[place]:
                known = list(index.followers(written.tokens))
                own = list(written.followers())
                said = [_way(way, discounts[id(index)], known, own, vocabulary) for way in WAYS.values()]
                log_p.append([math.log(p[token]) for p in said])
                entropies.append([-float(p @ np.log(p)) for p in said])
            written.append(token)
            place += 1
    return Said(torch.tensor(log_p, dtype=torch.float64), torch.tensor(entropies, dtype=torch.float64))


def _way(
    way: Smoothing,
    discounts: Sequence[Discounts],
    known: Sequence[Followers],
    own: Sequence[Followers],
    vocabulary: int,
) -> Floats:
    """The distribution over the vocabulary, (V,) float64, by contexts of the notes and of the text so far."""
    levels = [level for level in known if level.length <= way.depth]
    if way.shortest is not None:
        levels += [level for level in own if way.shortest <= level.length <= way.depth]
    p, left = np.zeros(vocabulary), 1.0
    for level in reversed(levels):
        kept, total = level.counts.astype(float), int(level.counts.sum())
        if way.discount is None:
            total += len(level.ids)
        elif isinstance(way.discount, float):
            kept -= way.discount
        else:
            kept -= discounts[level.length].taken(level.counts)
        p[level.ids] += left * kept / total
        left *= 1 - kept.sum() / total
    return p + left / vocabulary
