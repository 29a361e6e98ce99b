"""Measures of written text: its variety, its loops, and its distance from human text.

A new measure is a function of `Written` and a line in METRICS; JSON and tables show all of them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ssdcli.options.checks import seed_word

if TYPE_CHECKING:
    from ssdcli.models.judge import Judgement

_WORD = re.compile(r"\w+|[^\w\s]")
_RANKS = 5_000  # the most frequent words, to which a Zipf coefficient is fitted; rarer ones occur once or twice
_LOOP_WORDS = 2  # words of a repeated phrase, at least
_LOOPS = 3  # times that it is repeated


@dataclass(frozen=True)
class Written:
    """One author's texts, to be measured.

    texts: their words.
    readings: the judge's of each text; empty without a judge.
    reference: its readings of the human texts; empty for these themselves.
    seed: of random draws.
    """

    texts: Sequence[Sequence[str]]
    readings: Sequence[Judgement] = ()
    reference: Sequence[Judgement] = ()
    seed: int = 0


def words(text: str) -> list[str]:
    """Split a text into words and punctuation marks."""
    return _WORD.findall(text)


def distinct_ngrams(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of different n-grams among all n-grams of all texts (Li et al., 2016); nan if there are none."""
    grams = [tuple(text[place : place + n]) for text in texts for place in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[Sequence[str]]) -> float:
    """The share of texts that end in a phrase of two words or more, three times over; nan without a text.

    Holtzman et al., "The curious case of neural text degeneration" (2020).
    """
    return sum(map(_loops, texts)) / len(texts) if texts else math.nan


def _loops(text: Sequence[str]) -> bool:
    longest = len(text) // _LOOPS
    return any(
        all(text[-size:] == text[-(k + 1) * size : -k * size] for k in range(1, _LOOPS))
        for size in range(_LOOP_WORDS, longest + 1)
    )


def zipf(texts: Sequence[Sequence[str]]) -> float:
    """Fit s in frequency ~ rank^-s to logarithms by least squares; nan for fewer than two words.

    English text has about 1 (Zipf, 1949); Holtzman et al. (2020) compare texts by it.
    """
    counts = Counter(word for text in texts for word in text)
    frequencies = [count for _, count in counts.most_common(_RANKS)]
    if len(frequencies) < 2:
        return math.nan
    slope, _ = np.polyfit(np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies), 1)
    return float(-slope)


def can_measure_mauve() -> bool:
    """Whether the library that computes MAUVE is installed."""
    return find_spec("mauve") is not None


def perplexity(readings: Sequence[Judgement]) -> float | None:
    """The judge's perplexity of all texts together, per token of its own; None without a token."""
    tokens = sum(reading.tokens for reading in readings)
    return math.exp(math.fsum(reading.nats for reading in readings) / tokens) if tokens else None


def likeness(written: Written) -> float | None:
    """The MAUVE of an author's texts and the human ones; of the human texts, that of their two halves, as a ceiling.

    The halves are smaller samples, so the ceiling is a little low, if anything. None without a judge, without the
    library, and for a single human text.
    """
    if not written.readings or not can_measure_mauve():
        return None
    own, people = (_features(readings) for readings in (written.readings, written.reference or written.readings))
    if written.reference:
        return mauve(own, people, written.seed)
    return mauve(people[::2], people[1::2], written.seed) if len(people) > 1 else None


def mauve(features: np.ndarray, reference: np.ndarray, seed: int) -> float:
    """Compare two sets of texts by features of (N, H) and (M, H): in (0, 1], 1 for the same distribution.

    Pillutla et al., "MAUVE: measuring the gap between neural text and human text using divergence frontiers" (2021).
    """
    from mauve import compute_mauve

    return float(compute_mauve(p_features=features, q_features=reference, seed=seed_word(seed)).mauve)


def _features(readings: Sequence[Judgement]) -> np.ndarray:
    return np.stack([reading.features for reading in readings])


METRICS: Mapping[str, Callable[[Written], float | None]] = {
    "distinct_1": lambda written: distinct_ngrams(written.texts, 1),
    "distinct_2": lambda written: distinct_ngrams(written.texts, 2),
    "distinct_3": lambda written: distinct_ngrams(written.texts, 3),
    "repetition": lambda written: repetition(written.texts),
    "zipf": lambda written: zipf(written.texts),
    "perplexity": lambda written: perplexity(written.readings),
    "mauve": likeness,
}


def not_measured(*, has_judge: bool) -> list[str]:
    """A sentence about the metrics that were not measured for want of something, if there are any."""
    judge = [] if has_judge else ["name the folder of a causal language model with --judge"]
    library = [] if can_measure_mauve() else ["install the library of MAUVE with pip install 'ssdcli[mauve]'"]
    metrics = "MAUVE was" if has_judge else "perplexity and MAUVE were"
    return [f"{metrics} not measured: {', and '.join(judge + library)}"] * bool(judge + library)
