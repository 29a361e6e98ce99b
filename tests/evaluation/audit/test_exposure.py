"""Exposure of scores whose distributions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssdcli.evaluation.audit.findings import expose

RANDOM = np.random.default_rng(0)


def test_what_was_memorised_has_the_exposure_that_is_possible():
    exposure = expose(np.array([-9.0, -9.5]), RANDOM.normal(size=511), [1, 8])
    assert exposure.bits.tolist() == [9.0, 9.0]
    assert exposure.most == 9.0


def test_what_was_never_seen_has_one_over_ln_2_bits_on_average():
    bits = [expose(RANDOM.normal(size=8), RANDOM.normal(size=255), [1] * 8).bits for _ in range(50)]
    expected = 8 - np.log2(np.arange(1, 257)).mean()
    assert expected == pytest.approx(1 / math.log(2), abs=0.03)
    assert np.mean(bits) == pytest.approx(expected, abs=5 * 1.44 / math.sqrt(400))


def test_the_likeliest_of_all_has_more_exposure_than_the_tenth():
    candidates = np.arange(1.0, 256.0)
    assert expose(np.array([0.5, 9.5]), candidates, [1, 1]).bits == pytest.approx([8, 8 - math.log2(10)])


def test_a_model_that_finds_all_equally_likely_gives_one_bit():
    assert expose(np.zeros(3), np.zeros(255), [1, 1, 2]).bits == pytest.approx([1, 1, 1], abs=0.01)


def test_means_are_told_by_how_often_a_canary_was_planted():
    exposure = expose(np.array([1.5, 3.5, 0.5]), np.array([1.0, 2.0, 3.0]), [1, 2, 2])
    assert exposure.by_times() == pytest.approx({1: 1.0, 2: 1.0})
    assert exposure.mean == pytest.approx(1.0)
