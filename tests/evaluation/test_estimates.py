from __future__ import annotations

import math

import numpy as np
import pytest

from ssdcli.evaluation.estimates import ENOUGH, chosen_elsewhere, gain, margins, proportion, ratio, student

STUDENT = [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (187, 1.973), (10**6, 1.960)]


@pytest.mark.parametrize(("freedom", "quantile"), STUDENT)
def test_the_quantiles_are_students(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, rel=0.01)


@pytest.mark.parametrize("documents", [6, 40])
def test_95_of_100_intervals_hold_the_truth(documents):
    """Documents of very different sizes, whose losses a byte scatter: 2,000 measurements."""
    random, truth, held = np.random.default_rng(0), 1.5, 0
    for _ in range(2000):
        sizes = random.integers(100, 900, documents)
        found = ratio(sizes * random.normal(truth, 0.3, documents), sizes)
        held += found.low <= truth <= found.high
    assert 0.92 < held / 2000 < 0.98


def test_one_document_has_a_mean_and_no_interval():
    found = ratio(np.array([6.0]), np.array([4]))
    assert found.value == 1.5
    assert math.isnan(found.margin)
    assert found.to_json() == {"value": 1.5, "low": None, "high": None}


def test_an_estimate_lies_in_the_middle_of_its_interval():
    told = ratio(np.array([6.0, 1.0, 3.0]), np.array([4, 1, 2])).to_json()
    assert told["value"] == pytest.approx(10 / 7)
    assert told["low"] + told["high"] == pytest.approx(2 * told["value"])
    assert told["low"] < told["high"]


def test_margins_are_those_of_ratios_over_the_documents_that_have_any_size():
    random = np.random.default_rng(0)
    sizes = random.integers(1, 9, (20, 3)).astype(float)
    sizes[ENOUGH:, 1] = sizes[ENOUGH - 1 :, 2] = 0  # one part has just enough documents, the other one too few
    sums = sizes[..., None] * random.normal(2, 0.5, (20, 3, 2))
    found = margins(sums, sizes)
    for column in (0, 1):
        assert found[0, column] == pytest.approx(ratio(sums[:, 0, column], sizes[:, 0]).margin)
        assert found[1, column] == pytest.approx(ratio(sums[:ENOUGH, 1, column], sizes[:ENOUGH, 1]).margin)
    assert np.isnan(found[2]).all()


def test_a_gain_is_over_the_better_member_paired_by_document_and_in_bits():
    """What documents have in common, most of their scatter, is no part of the gain's."""
    random, common = np.random.default_rng(0), np.random.default_rng(1).normal(500, 100, (40, 1))
    members = common + random.normal([0, 9], 1, (40, 2))
    ensembles = common + random.normal([-20, 30], 1, (40, 2))
    found = gain(members * math.log(2), ensembles * math.log(2), np.full(40, 10))
    assert found.value == pytest.approx(2.0, abs=0.1)
    assert found.margin < 0.1 < ratio(members[:, 0], np.full(40, 10)).margin


@pytest.mark.parametrize("truth", [0.025, 0.3, 0.9])
def test_95_of_100_intervals_hold_the_true_share(truth):
    """Weighed by how probable each number of hits is, so that no draw decides."""
    held = 0.0
    for hits in range(41):
        low, high = proportion(hits, 40)
        probability = math.comb(40, hits) * truth**hits * (1 - truth) ** (40 - hits)
        held += probability * (low <= truth <= high)
    assert 0.92 < held < 0.99


def test_the_interval_of_a_share_stays_within_its_bounds():
    assert proportion(0, 40)[0] == 0 < proportion(0, 40)[1]
    assert proportion(40, 40) == pytest.approx([1 - end for end in proportion(0, 40)[::-1]])


def test_what_is_chosen_is_measured_on_documents_that_did_not_choose_it():
    sums = np.array([[1.0, 9.0], [5.0, 2.0], [1.0, 9.0], [5.0, 2.0]])  # even documents like the first column
    assert chosen_elsewhere(sums).tolist() == [9.0, 5.0, 9.0, 5.0]


def test_choosing_among_equals_gains_nothing():
    """Twenty columns of noise: the best of them on all documents looks better than their mean, the chosen does not."""
    random = np.random.default_rng(0)
    seen, chosen = [], []
    for _ in range(300):
        sums = random.normal(5, 1, (40, 20))
        seen.append(sums.mean(0).min() - 5)
        chosen.append(chosen_elsewhere(sums).mean() - 5)
    assert np.mean(seen) < -0.2
    assert abs(np.mean(chosen)) < 5 * np.std(chosen) / math.sqrt(300)


def test_a_single_document_has_no_gain():
    found = gain(np.array([[3.0, 2.0]]), np.array([[1.0, 0.5]]), np.array([10]))
    assert math.isnan(found.value)
    assert math.isnan(found.margin)
