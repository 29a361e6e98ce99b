"""Recall: which places of a memory's text a causal core reads in the same way, and what followed there.

It is a kNN-LM (Khandelwal et al., 2020) over the states of one layer of a frozen core. What is near is learned on the
text itself: a metric under which the places of other documents that predict a token are near those
that the token follows. Places whose surroundings share rare words with the text before the token, and places after the
same tokens, are preferred, so that a question in other words than the notes' may find the note that answers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from ssdcli.models.backbones.packed_linear import Matrix, PackedLinear, pack_int8
from ssdcli.models.memory.text_index import BORDER, Index

WINDOW = 48  # tokens before a token whose words are looked for
REACH = 24  # tokens on either side of a place in which they may stand

_WORDS = 1.0  # what a place gains in cosine that has all rare words around it; measured, as are these (see docs/lab):
_MATCHING = 0.06  # for each token before it that is the same
_SOFTER = 1.2  # than the learned temperature, since these bonuses sharpen the scores
_CANDIDATES = 1 << 12  # places that are compared in all dimensions; of half a million, twice as many gain nothing
_COARSE = 64  # dimensions by which these are found, which hold 0.7 of the keys' squared length
_FEW = 16  # times as many scores as are wanted are looked through at once; of more,
_SAMPLED = 32  # one in so many tells a bound
_COMMON = 0.7  # nats of surprise that a word needs to be rare
_STEPS = 64  # in which a word's surprise is counted, per nat: sums of whole numbers do not depend on their order
_SUM = np.uint16  # that of the words of a window, at most 41,000 where half a million places have a key
_CACHED = 256  # words whose places are kept
_PART = 1 << 12  # places of a word that are looked at together
_AROUND = np.arange(-REACH, REACH + 1)


@dataclass(frozen=True)
class Metric:
    """Which of a core's states are alike: the cosine of projections of one layer's states.

    taps: the layers whose states the core gives beside the last one's; the last of these is read.
    mean: of the states, normalised by their root mean square, (H,) float32.
    projection: (H, D) float32, the dimensions in which keys differ most first.
    temperature: of the softmax over cosines.
    """

    taps: tuple[int, ...]
    mean: Tensor
    projection: Tensor
    temperature: float

    def __call__(self, states: Tensor) -> Tensor:
        """Project states (n, (1 + k) H), those of the last layer first: unit vectors (n, D) float32."""
        size = len(self.mean)
        own = functional.rms_norm(states[..., -size:].float(), (size,)) - self.mean
        return functional.normalize(own @ self.projection, dim=-1)


@dataclass(frozen=True)
class Recall:
    """Keys of the places of a memory's text.

    metric: what made them.
    places: ascending places of the index's tokens, (n,) int64.
    keys: of the state before the token at each place, (n, D) bfloat16.
    """

    metric: Metric
    places: NDArray[np.int64]
    keys: Tensor

    def moved(self, old: Index, kept: Sequence[int]) -> Recall:
        """The recall of an index that holds these texts of another alone, in their order."""
        texts = np.searchsorted(old.borders, self.places) - 1
        lengths = np.diff(old.borders)
        starts = np.full(len(lengths), -1, np.int64)
        starts[list(kept)] = np.cumsum([0, *lengths[list(kept)]])[:-1]
        stays = starts[texts] >= 0
        places = (starts[texts] + self.places - old.borders[texts])[stays]
        return Recall(self.metric, places, self.keys[torch.from_numpy(stays)])


def save_recall(path: Path, recall: Recall) -> None:
    """Write a recall into a file."""
    metric = recall.metric
    parts = {
        "mean": metric.mean,
        "projection": metric.projection,
        "temperature": torch.tensor([metric.temperature], dtype=torch.float64),
        "taps": torch.tensor(metric.taps, dtype=torch.int64),
        "places": torch.from_numpy(recall.places),
        "keys": recall.keys,
    }
    save_file({name: part.contiguous() for name, part in parts.items()}, path)


def load_recall(path: Path, index: Index) -> Recall:
    """Map the recall of an index; ValueError, KeyError or SafetensorError for one that is damaged or another's."""
    parts = load_file(path)
    metric = Metric(
        tuple(parts["taps"].tolist()), parts["mean"], parts["projection"], float(parts["temperature"].item())
    )
    places, keys = parts["places"].numpy(), parts["keys"]
    numbers = math.isfinite(metric.temperature) and bool(
        keys.sum().isfinite()
    )  # of one key that is none, the sum is none
    if len(places) and (metric.temperature <= 0 or not numbers):
        raise ValueError(f"{path.name} holds numbers that are none")
    size, width = metric.projection.shape
    fits = metric.mean.shape == (size,) and keys.shape == (len(places), width) and len(metric.taps) > 0
    inside = fits and len(places) > 0 and places[0] > 0 and places[-1] < len(index.tokens)
    if not inside or (np.diff(places) <= 0).any() or (index.tokens[places] == BORDER).any():
        raise ValueError(f"{path.name} is not that of its text")
    return Recall(metric, places, keys)


def _cosines(queries: Tensor, keys: Tensor) -> Tensor:
    """The products of queries (C, D) with keys (n, D): (C, n) in their dtype, each row as for its query alone."""
    return torch.mm(queries, keys.T)


def _largest(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """The places of the largest of scores (n,), in no order: (count,).

    Of many, those below a bound that a sample of them tells are left out first, which takes a tenth of the time.
    """
    if len(scores) >= _FEW * count:
        sample = scores[::_SAMPLED]
        wanted = 1 + 2 * count // _SAMPLED
        above = np.flatnonzero(scores >= np.partition(sample, -wanted)[-wanted])
        if len(above) >= count:
            return above[_largest_of_few(scores[above], count)]
    return _largest_of_few(scores, count)


def _largest_of_few(scores: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    return np.argpartition(scores, -count)[-count:]


@dataclass
class PlaceScores:
    """Scores the places of a text by how much they are like the one that is to be predicted.

    index: of the text.
    recall: its keys.
    word_of: the word, or the part of one, that an id writes, whatever its case; empty for none.
    """

    index: Index
    recall: Recall
    word_of: Callable[[int], str]
    _covered: dict[str, tuple[NDArray[np.bool_], int]] = field(default_factory=dict, init=False, repr=False)
    _last: tuple[frozenset[str], NDArray[np.uint16]] | None = field(default=None, init=False, repr=False)

    def best(self, queries: Tensor, befores: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """How much places are like the ones after some texts, in nats, (m,) float32, and their tokens, (m,) int64.

        Of many places they are those that are best by the first of the keys' dimensions.

        queries: the metric's images of the states there, (C, D). befores: the tokens before, WINDOW of each at least.
        """
        keys, queries = self.recall.keys, queries.to(self.recall.keys.dtype)
        coarsely = len(keys) > _CANDIDATES
        cosines = self._coarsely(queries) if coarsely else _cosines(queries, keys)
        for query, scores, before in zip(queries, cosines, befores, strict=True):
            tokens, bonus, own = self._tokens, self._bonus(before), scores.float()
            if coarsely:
                rows = torch.from_numpy(_largest(own.add_(bonus).numpy(), _CANDIDATES))
                chosen, bonus, tokens = (of_all.index_select(0, rows) for of_all in (keys, bonus, tokens))
                own = _cosines(query[None], chosen)[0].float()
            yield (own + bonus) / (_SOFTER * self.recall.metric.temperature), tokens

    def _coarsely(self, queries: Tensor) -> Tensor:
        """About the cosines of queries (C, D) with all keys: (C, n) bfloat16, each row as for its query alone."""
        return self._coarse(queries[:, None, :_COARSE].contiguous())[:, 0]

    def _bonus(self, before: Sequence[int]) -> Tensor:
        """What each place gains beside its cosine: (n,) float32."""
        bonus = self._shared_words(before).mul_(_WORDS)
        for start, stop in list(self.index.slices(before[-self.index.depth :]))[1:]:
            rows = self._rows[self.index.order[start:stop]]
            bonus[torch.from_numpy(rows[rows >= 0])] += _MATCHING
        return bonus

    @cached_property
    def _coarse(self) -> PackedLinear:
        """The first dimensions of the keys, which tell most, in 8 bits: (n, _COARSE)."""
        return pack_int8(Matrix([self.recall.keys[:, :_COARSE]]))

    @cached_property
    def _tokens(self) -> Tensor:
        """The token at each place that has a key: (n,) int64."""
        return torch.from_numpy(self.index.tokens[self.recall.places].astype(np.int64))

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """The row of each place of the text in the keys; -1 for one that has none."""
        rows = np.full(len(self.index.tokens), -1, np.int64)
        rows[self.recall.places] = np.arange(len(self.recall.places))
        return rows

    @cached_property
    def _by_word(self) -> dict[str, NDArray[np.int64]]:
        """The rows at which each word stands."""
        ids, numbers = np.unique(self.index.tokens[self.recall.places], return_inverse=True)
        order = np.argsort(numbers, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
        rows: dict[str, list[NDArray[np.int64]]] = {}
        for token, part in zip(ids.tolist(), parts, strict=True):
            rows.setdefault(self.word_of(token), []).append(part)
        return {word: np.concatenate(parts) for word, parts in rows.items()}

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row of each row's text, and the one behind its last."""
        texts = np.searchsorted(self.index.borders, self.recall.places)
        return np.searchsorted(texts, texts), np.searchsorted(texts, texts, "right")

    def _shared_words(self, before: Sequence[int]) -> Tensor:
        """The share of the rare words before a token, by surprise, that stand near each place: (n,) in [0, 1]."""
        near = {self.word_of(token) for token in before[-WINDOW:] if token != BORDER}
        known = {word: self._near(word) for word in near - {""}}
        rare = {word for word, (_, surprise) in known.items() if surprise >= _COMMON * _STEPS}
        total = sum(known[word][1] for word in rare)
        counted, sums = self._last or (frozenset(), np.zeros(len(self.recall.places), _SUM))
        if len(counted ^ rare) > len(rare):
            counted, sums = frozenset(), np.zeros(len(self.recall.places), _SUM)
        sums = sums.copy()
        for word in rare ^ counted:
            covered, surprise = self._near(word)
            gain = covered * _SUM(surprise)  # faster than to index by a mask
            if word in rare:
                sums += gain
            else:
                sums -= gain
        self._last = frozenset(rare), sums
        return torch.from_numpy(sums).float().div_(max(total, 1))

    def _near(self, word: str) -> tuple[NDArray[np.bool_], int]:
        """The rows near which a word stands, (n,) bool, and how surprising that is."""
        if word not in self._covered:
            if len(self._covered) == _CACHED:
                del self._covered[next(iter(self._covered))]
            rows = self._by_word.get(word, np.empty(0, np.int64))
            covered = np.zeros(len(self.recall.places), bool)
            for start in range(0, len(rows), _PART):
                part = rows[start : start + _PART, None]
                first, last = (bound[part] for bound in self._bounds)
                covered[np.clip(part + _AROUND, first, last - 1)] = True
            share = max(1, int(np.count_nonzero(covered))) / max(1, len(covered))
            self._covered[word] = covered, round(-math.log(share) * _STEPS)
        return self._covered[word]
