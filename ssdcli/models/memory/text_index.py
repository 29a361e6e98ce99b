"""An index of a text: every place in it, sorted by the tokens that stand before it.

It is a suffix array (Manber and Myers, 1993) of the reversed text, cut at a depth. All places with the same tokens
before them are neighbours in it, so that the tokens that ever followed a context are one slice, found by bisection.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEPTH = 8  # beside a real core, longer contexts of real notes added nothing
BORDER = -1  # stands before every text and after the last, and is no token

_ALIKE = 0.5  # of the runs of a text, or of another's, that make it a near-duplicate
_GROUP = 1 << 22  # places that are sorted at a time, which bounds the memory that sorting takes
_PART = 1 << 22  # tokens that are looked at at a time, likewise
_KEPT = 1024  # a slice with more places is counted once
_CACHED = 256  # such slices whose counts are kept
_WIDE = 1 << 16
_WORD = 64

Tokens = NDArray[np.int32]
Ids = NDArray[np.int64]
Places = NDArray[np.integer]
Shifted = NDArray[np.unsignedinteger]  # ids plus one, so that BORDER is 0


@dataclass(frozen=True)
class Followers:
    """The tokens that follow a context somewhere in the text.

    length: the tokens of the context.
    ids: (T,) int64, the different tokens, sorted.
    counts: (T,) int64, how often each follows.
    """

    length: int
    ids: Ids
    counts: Ids


@dataclass(frozen=True)
class Index:
    """Places of a text by their contexts.

    tokens: (N,) int32, the texts one after another, BORDER before each and after the last.
    order: (N - texts - 1,) int32, the places of tokens, sorted by up to `depth` tokens before them, the nearest first;
        equal ones stand as in the text.
    depth: the longest context, in tokens.
    """

    tokens: Tokens
    order: Places
    depth: int = DEPTH
    _counted: dict[tuple[int, int], tuple[Ids, Ids]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int] | Tokens], depth: int = DEPTH) -> Index:
        """Index these texts, each a sequence of token ids of zero or more."""
        tokens = shifted(texts)
        order = np.concatenate([np.empty(0, np.int32), *sorted_places(tokens, depth)])
        return cls(tokens.astype(np.int32) + BORDER, order, depth)

    @property
    def size(self) -> int:
        """How many tokens are indexed."""
        return len(self.order)

    @cached_property
    def borders(self) -> Ids:
        """The places of the borders, in the order of the texts: (texts + 1,) int64."""
        return np.flatnonzero(self.tokens == BORDER)

    def text_of(self, place: int) -> int:
        """The number of the text that holds a place."""
        return int(np.searchsorted(self.borders, place)) - 1

    def texts(self) -> list[Tokens]:
        """The texts, in their order."""
        bounds = zip(self.borders, self.borders[1:], strict=False)
        return [self.tokens[start + 1 : stop] for start, stop in bounds]

    def unlike(self, others: Sequence[Sequence[int]]) -> list[int]:
        """The numbers of those texts that are neither these others nor their near-duplicates.

        A text is one if half of its runs of `depth` tokens stand in another, or half of that one's in it. Another that
        is not longer than a run must be the same, since few tokens stand in many texts.
        """
        lengths = np.diff(self.borders) - 1
        runs = np.maximum(lengths - self.depth, 1)
        alike = np.zeros(len(runs), bool)
        for other in others:
            if len(other) > self.depth:
                shared = self._shared_runs(other, len(runs))
                alike |= shared >= _ALIKE * np.minimum(runs, len(other) - self.depth)
            else:
                alike |= self._same(other, lengths == len(other))
        return np.flatnonzero(~alike).tolist()

    def _same(self, other: Sequence[int], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of some texts of its length are another text: (texts,) bool."""
        starts = self.borders[:-1][candidates] + 1
        same = candidates.copy()
        same[candidates] = (self.tokens[starts[:, None] + np.arange(len(other))] == np.asarray(other)).all(1)
        return same

    def _shared_runs(self, other: Sequence[int], texts: int) -> Ids:
        """How many of the runs of `depth` tokens of another text, all but its last, stand in each text."""
        shared = np.zeros(texts, np.int64)
        for start in range(len(other) - self.depth):
            slices = list(self.slices(other[start : start + self.depth]))
            if len(slices) > self.depth:  # the whole run stands somewhere, before another token
                places = self.order[slice(*slices[-1])]
                shared[np.unique(np.searchsorted(self.borders, places) - 1)] += 1
        return shared

    def followers(self, before: Sequence[int]) -> Iterator[Followers]:
        """What follows the last tokens before a place: for 0 of them, 1, 2, up to the longest context that occurs.

        A BORDER in `before` is the beginning of a text.
        """
        for length, (start, stop) in enumerate(self.slices(before)):
            yield Followers(length, *self._count(start, stop))

    def slices(self, before: Sequence[int]) -> Iterator[tuple[int, int]]:
        """The bounds in `order` of the places after the last 0, 1, 2, ... of these tokens, while there are any."""
        start, stop = 0, len(self.order)
        if start == stop:
            return
        yield start, stop
        for distance, token in enumerate(reversed(before[-self.depth :]), 1):
            start, stop = self._narrowed(start, stop, distance, token)
            if start == stop:
                return
            yield start, stop
            if token == BORDER:
                return

    def places_after(self, before: Sequence[int]) -> Places:
        """The places right after these tokens, of which there may be more than `depth`."""
        nearest = before[-self.depth :]
        slices = list(self.slices(nearest))
        if len(slices) <= len(nearest):
            return self.order[:0]
        places = self.order[slice(*slices[-1])]
        for distance in range(len(nearest) + 1, len(before) + 1):
            places = places[places >= distance]
            places = places[self.tokens[places - distance] == before[-distance]]
        return places

    def between(self, before: Sequence[int], after: Sequence[int], gap: int) -> Iterator[Followers]:
        """What follows the longest context that also has these tokens behind it, `gap` places further on.

        The first of `after` has to match, then the first two, and so on while places are left. A context that stands
        in more than _WIDE places is not searched.
        """
        for start, stop in reversed(list(self.slices(before))):
            if stop - start > _WIDE:
                return
            places = self._followed(self.order[start:stop], after[:1], gap)
            if len(places):
                yield from self._closing_in(places, after, gap)
                return

    def _closing_in(self, places: Places, after: Sequence[int], gap: int) -> Iterator[Followers]:
        for length in range(1, min(len(after), self.depth) + 1):
            places = self._followed(places, after[length - 1 : length], gap + length - 1)
            if not len(places):
                return
            yield Followers(length, *_distinct(self.tokens[places]))

    def _followed(self, places: Places, token: Sequence[int], gap: int) -> Places:
        """Those places that have a token so far behind them, in the same text or at its border."""
        inside = places[places < len(self.tokens) - gap]
        return inside[self.tokens[inside + gap] == token[0]] if token else inside

    def _narrowed(self, start: int, stop: int, distance: int, token: int) -> tuple[int, int]:
        """The part of a slice whose places have this token so far before them."""

        def at(place: np.integer) -> int:
            return int(self.tokens[place - distance])

        return (
            bisect_left(self.order, token, start, stop, key=at),
            bisect_right(self.order, token, start, stop, key=at),
        )

    def _count(self, start: int, stop: int) -> tuple[Ids, Ids]:
        """The different tokens at the places of a slice, and how often each stands there."""
        if stop - start <= _KEPT:
            return self._counts(start, stop)
        if (start, stop) not in self._counted:
            if len(self._counted) == _CACHED:
                del self._counted[next(iter(self._counted))]
            self._counted[start, stop] = self._counts(start, stop)
        return self._counted[start, stop]

    def _counts(self, start: int, stop: int) -> tuple[Ids, Ids]:
        here = self.tokens[self.order[start:stop]]
        if stop - start <= _KEPT:
            return _distinct(here)
        every = np.bincount(here)
        ids = np.flatnonzero(every)
        return ids, every[ids]


def _distinct(tokens: Tokens) -> tuple[Ids, Ids]:
    """The different tokens and their counts; faster than counting all ids where there are few."""
    ids, counts = np.unique(tokens, return_counts=True)
    return ids.astype(np.int64), counts.astype(np.int64)


def sorted_places(tokens: Shifted, depth: int) -> Iterator[Tokens]:
    """The places of tokens, some at a time, sorted by the `depth` tokens before them, the nearest first."""
    for first, last in _groups(_counted(tokens)):
        places = _places_after(tokens, first, last)
        yield places[np.lexsort(_keys(tokens, places, depth))]


def shifted(texts: Sequence[Sequence[int] | NDArray[Any]]) -> Shifted:
    """The texts one after another, each id plus one, 0 for a BORDER, in as few bytes as the ids need."""
    highest = max((int(np.max(text)) for text in texts if len(text)), default=0)
    tokens = np.zeros(sum(map(len, texts)) + len(texts) + 1, np.min_scalar_type(highest + 1))
    start = 1
    for text in texts:
        tokens[start : start + len(text)] = text
        tokens[start : start + len(text)] += 1
        start += len(text) + 1
    return tokens


def parts_of(tokens: Shifted) -> Iterator[tuple[int, Shifted]]:
    """An array in parts, so that what is made of one takes little memory: the start of each, and the part."""
    return ((start, tokens[start : start + _PART]) for start in range(0, len(tokens), _PART))


def _counted(tokens: Shifted) -> NDArray[np.integer]:
    """How many places stand after each token, 0 first."""
    sizes = np.zeros(int(tokens.max()) + 1, np.int64)
    for _, part in parts_of(tokens[:-1]):
        sizes += np.bincount(part, minlength=len(sizes))
    return sizes


def _places_after(tokens: Shifted, first: int, last: int) -> Tokens:
    """The places of tokens that stand after one of a range."""
    found = [start + 1 + np.flatnonzero((part >= first) & (part < last)) for start, part in parts_of(tokens[:-1])]
    places = np.concatenate([np.empty(0, np.int64), *found]).astype(np.int32)
    kept: Tokens = places[tokens[places] != 0]
    return kept


def _groups(sizes: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Ranges of tokens, BORDER first, that follow each other and have _GROUP places after them or few more."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        last = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + _GROUP, "right"))
        last = max(last, first + 1)
        yield first, last
        first = last


def _keys(tokens: Shifted, places: Places, depth: int) -> list[NDArray[np.uint64]]:
    """Keys for `lexsort`, the last the most important: the tokens before some places, several in a word of 64 bits."""
    bits = max(1, int(tokens.max()).bit_length())
    each = _WORD // bits
    keys = []
    for nearest in range(1, depth + 1, each):
        key = np.zeros(len(places), np.uint64)
        for distance in range(nearest, min(nearest + each, depth + 1)):
            before = tokens[np.maximum(places - distance, 0)]  # further back than a BORDER, 0, nothing is compared
            key = (key << np.uint64(bits)) | before.astype(np.uint64)
        keys.append(key)
    return keys[::-1]
