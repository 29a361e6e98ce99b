from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from ssdcli.evaluation.generated import distinct_ngrams, mauve, repetition, words, zipf


def test_words_and_marks_are_words():
    assert words("Dear land-lord, it's 5°!") == ["Dear", "land", "-", "lord", ",", "it", "'", "s", "5", "°", "!"]
    assert words(" \n") == []


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        (["a b c d"], 1, 1.0),
        (["a a a a"], 1, 1 / 4),
        (["a b a b"], 2, 2 / 3),
        (["a b", "a b"], 2, 1 / 2),  # over all texts together
        (["a b", "b c"], 2, 1.0),  # and across none
        (["a b c a b c"], 3, 3 / 4),
    ],
)
def test_distinct_n_is_the_share_of_different_n_grams(texts, n, share):
    assert distinct_ngrams([text.split() for text in texts], n) == pytest.approx(share)


def test_where_nothing_is_written_nothing_is_measured():
    for found in (distinct_ngrams([["a"]], 2), distinct_ngrams([], 1), repetition([]), zipf([]), zipf([["a", "a"]])):
        assert math.isnan(found)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("one two one two one two", True),
        ("so it is and so it is and so it is and so", True),  # wherever it breaks off
        ("begin a b c a b c a b c", True),
        ("a b a b", False),
        ("no no no no no no", True),
        ("no no no no no", False),
        ("a b a b a b end", False),
        ("", False),
    ],
)
def test_a_text_that_ends_in_a_phrase_said_three_times_loops(text, loops):
    assert repetition([text.split()]) == loops


def test_repetition_is_a_share_of_texts():
    assert repetition([["a", "b"] * 3, ["a"], ["b"], ["a", "b"] * 5]) == 0.5


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_zipf_finds_the_exponent_of_a_power_law(exponent):
    counts = [round(20_000 * rank**-exponent) for rank in range(1, 60)]
    text = [str(rank) for rank, count in enumerate(counts) for _ in range(count)]
    half = len(text) // 2
    assert zipf([text[:half], text[half:]]) == pytest.approx(exponent, abs=0.01)


def test_mauve_is_asked_of_its_library(monkeypatch):
    asked = {}

    def compute_mauve(**options):
        asked.update(options)
        return SimpleNamespace(mauve=0.75)

    library = ModuleType("mauve")
    library.compute_mauve = compute_mauve
    monkeypatch.setitem(sys.modules, "mauve", library)
    own, other = np.ones((3, 2)), np.zeros((4, 2))
    assert mauve(own, other, seed=7) == 0.75
    assert asked["p_features"] is own
    assert asked["q_features"] is other
    assert asked["seed"] == 7
