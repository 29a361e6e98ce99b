"""Calibration: whether what an ensemble writes at places of a held-out text is right as often as it is sure.

From each place it writes on, greedily. Its first word, its first three words, and its words up to the end of a sentence
are right if the text has the same words there; how likely that is, its own probabilities tell, or a confidence that was
fitted to them. The expected calibration error (Naeini et al., 2015; Guo et al., 2017) is the mean distance between the
confidence of a bin and its share of right items, weighted by items, over bins of equal width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from ssdcli.data.documents import Document
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.evaluation.measurement import Estimate
from ssdcli.generation.types import Options, Request, TokenShares
from ssdcli.generation.writer import Writer
from ssdcli.options.checks import seed_word

BINS = 10

_UNITS = {"word": 1, "phrase": 3, "sentence": None}  # with their words; None for as many as the sentence has
_TOKENS = 24  # that are written from a place, at most
_BEFORE = 400  # characters of the text before a place that are read, at most
_AFTER = 400  # characters behind it that are compared, at most
_LEAST = 20  # characters before a place, at least
_DRAWS = 400  # of a bootstrap

_WORD = re.compile(r"\S+")
_END = re.compile(r"[.!?…][\"'”’)\]*_`]*$")  # of a sentence, at the end of a word


@dataclass(frozen=True)
class Place:
    """A place in a document.

    document: its number.
    before, after: the text on both sides, without white space between them.
    """

    document: int
    before: str
    after: str


def places_of(documents: Sequence[Document], most: int, seed: int) -> list[Place]:
    """Draw places between words of plain documents, in the order of the text; fewer where there are not so many."""
    found = [
        (number, gap.start(), gap.end())
        for number, document in enumerate(documents)
        if not document.turns
        for gap in re.finditer(r"\s+(?=\S)", document.text)
        if gap.start() >= _LEAST
    ]
    chosen = sorted(Random(seed_word(seed)).sample(found, min(most, len(found))))
    return [_place(number, documents[number].text, start, stop) for number, start, stop in chosen]


def _place(number: int, text: str, start: int, stop: int) -> Place:
    before = text[max(0, start - _BEFORE) : start]
    whole = before if start <= _BEFORE else before.partition(" ")[2] or before  # not from within a word
    return Place(number, whole, text[stop : stop + _AFTER])


@dataclass(frozen=True)
class Item:
    """A unit that was written.

    document: the number of the one that it continues.
    unit: "word", "phrase" or "sentence".
    p: the probabilities of its tokens.
    right: whether the document has the same words there.
    """

    document: int
    unit: str
    p: tuple[float, ...]
    right: bool


def items(writer: Writer, places: Sequence[Place], on_progress: Callable[[float], None]) -> list[Item]:
    """What an ensemble writes from some places; nothing of a text that ends before its first word."""
    requests = [Request(place.before, plain=True) for place in places]
    found: list[Item] = []
    results = writer.results(requests, Options(max_tokens=_TOKENS, temperature=0, explain=True))
    for number, (place, result) in enumerate(zip(places, results, strict=True), 1):
        assert result.explain is not None
        found += _units(place, result.explain, is_cut=result.finish_reason == "length")
        on_progress(number / len(places))
    return found


def _units(place: Place, written: Sequence[TokenShares], *, is_cut: bool) -> Iterator[Item]:
    starts = np.cumsum([0, *(len(token.text) for token in written)])[:-1]
    words = list(_WORD.finditer("".join(token.text for token in written)))
    words = words[:-1] if is_cut and len(words) > 1 else words  # the last one may go on
    sentence = next((count for count, word in enumerate(words, 1) if _END.search(word[0])), len(words))
    for unit, length in _UNITS.items():
        kept = words[: sentence if length is None else length]
        if kept:
            p = [token.p for token, start in zip(written, starts, strict=True) if start < kept[-1].end()]
            right = place.after.split()[: len(kept)] == [word[0] for word in kept]
            yield Item(place.document, unit, tuple(p), right)


@dataclass(frozen=True)
class CalibrationResult:
    """How well an author's confidence in one kind of unit agrees with how often it is right.

    name: the author's.
    unit: "word", "phrase" or "sentence".
    count: how many items there are.
    right: the share of them that are right.
    plain: the expected calibration error of the probabilities, which are the mean confidence without a fitted one.
    fitted: that of the confidence that was fitted for the author; None without one.
    bins: (mean confidence, share that is right, items) of each bin that has items, by what is fitted if anything is.
    """

    name: str
    unit: str
    count: int
    right: float
    plain: Estimate
    fitted: Estimate | None
    bins: tuple[tuple[float, float, int], ...]

    @property
    def confidence(self) -> float:
        """The mean of it, by what is fitted if anything is."""
        return sum(sure * count for sure, _, count in self.bins) / self.count

    def to_json(self) -> dict[str, Any]:
        """The object in the `calibration` of `ssd eval --json`."""
        return {
            "name": self.name,
            "unit": self.unit,
            "count": self.count,
            "right": self.right,
            "error": self.plain.to_json(),
            "fitted_error": None if self.fitted is None else self.fitted.to_json(),
            "bins": [{"confidence": sure, "right": right, "count": count} for sure, right, count in self.bins],
        }


def calibration(name: str, found: Sequence[Item], fitted: Confidence | None) -> Iterator[CalibrationResult]:
    """Compare an author's confidence with how often it is right, for each unit."""
    for unit in _UNITS:
        own = [item for item in found if item.unit == unit]
        if own:
            right = np.array([item.right for item in own], float)
            documents = np.array([item.document for item in own])
            plain, best = (
                np.array([sure.of(item.p) for item in own]) for sure in (Confidence(), fitted or Confidence())
            )
            errors = [calibration_error(sure, right, documents) for sure in (plain, best)]
            by_confidence = tuple(bins(best, right))
            known = None if fitted is None else errors[1]
            yield CalibrationResult(name, unit, len(own), float(right.mean()), errors[0], known, by_confidence)


def calibration_error(confidence: np.ndarray, right: np.ndarray, documents: np.ndarray) -> Estimate:
    """The expected calibration error of items, (n,) each, with an interval from a bootstrap over documents."""
    random = np.random.default_rng(0)
    places = [np.flatnonzero(documents == number) for number in np.unique(documents)]
    drawn = (np.concatenate([places[i] for i in random.integers(len(places), size=len(places))]) for _ in range(_DRAWS))
    spread = np.std([_error(confidence[rows], right[rows]) for rows in drawn]) if len(places) > 1 else np.nan
    return Estimate(_error(confidence, right), float(1.96 * spread))


def _error(confidence: np.ndarray, right: np.ndarray) -> float:
    return sum(count * abs(sure - share) for sure, share, count in bins(confidence, right)) / len(right)


def bins(confidence: np.ndarray, right: np.ndarray) -> Iterator[tuple[float, float, int]]:
    """The mean confidence, the share that is right and the items of each bin that has some."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    for place in np.unique(places):
        inside = places == place
        yield float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())
