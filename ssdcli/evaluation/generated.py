"""Measures of written text: how varied it is, whether it loops, and how far it is from people's text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

_WORD = re.compile(r"\w+|[^\w\s]")
_RANKS = 5_000  # words that a Zipf coefficient is fitted to, the most frequent ones
_LOOP_WORDS = 2  # of a phrase that is said in a loop, at least
_LOOPS = 3  # times that it is said


def words(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return _WORD.findall(text)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """The share of all n-grams in texts of words that are different ones; nan if there is none (Li et al., 2016)."""
    grams = [tuple(text[place : place + n]) for text in texts for place in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[Sequence[str]]) -> float:
    """The share of texts that end in a phrase of two words or more, said three times; nan without a text.

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
    """The s of frequency ~ rank^-s, fitted to logarithms by least squares; nan for fewer than two words.

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


def mauve(features: np.ndarray, reference: np.ndarray, seed: int) -> float:
    """How alike two sets of texts are, by features of (N, H) and (M, H): in (0, 1], 1 for the same distribution.

    Pillutla et al., "MAUVE" (2021), by its library.
    """
    from mauve import compute_mauve

    return float(compute_mauve(p_features=features, q_features=reference, seed=seed).mauve)
