"""Attacks on scores whose distributions are known."""

from __future__ import annotations

import numpy as np
import pytest

from ssdcli.evaluation.audit.membership import attack, match


def attacks(shift, pairs=40, rounds=150, seed=0):
    draw = np.random.default_rng(seed)
    return [attack(draw.normal(shift, 1, pairs), draw.normal(size=pairs)) for _ in range(rounds)]


def test_scores_that_do_not_depend_on_membership_give_no_advantage():
    found = attacks(shift=0.0)
    errors = np.mean([one.advantage_error for one in found]), np.mean([one.auc_error for one in found])
    assert abs(np.mean([one.advantage for one in found])) < 4 * errors[0] / np.sqrt(150)
    assert abs(np.mean([one.auc for one in found]) - 0.5) < 4 * errors[1] / np.sqrt(150)


def test_the_errors_are_as_large_as_the_numbers_scatter():
    found = attacks(shift=0.5)
    for value, error in (("auc", "auc_error"), ("advantage", "advantage_error")):
        scatter = np.std([getattr(one, value) for one in found])
        assert 0.6 < np.mean([getattr(one, error) for one in found]) / scatter < 1.6


def test_the_numbers_are_those_of_shifted_normals():
    """At a shift of 2 the AUC is Phi(sqrt 2) and the best threshold gives 2 Phi(1) - 1."""
    found = attacks(shift=2.0, pairs=200, rounds=20)
    assert np.mean([one.auc for one in found]) == pytest.approx(0.9214, abs=0.015)
    assert np.mean([one.advantage for one in found]) == pytest.approx(0.6827, abs=0.05)


def test_scores_that_tell_all_apart_give_all_the_advantage():
    found = attack(np.linspace(1, 2, 120), np.linspace(-2, -1, 120))
    assert (found.auc, found.advantage, found.caught) == (1.0, 1.0, 1.0)
    assert 0 < found.advantage_error < 0.05


def test_lower_scores_of_members_are_no_advantage():
    found = attack(np.linspace(-2, -1, 30), np.linspace(1, 2, 30))
    assert found.auc == 0.0
    assert found.advantage <= 0


def test_equal_scores_give_no_advantage():
    found = attack(np.zeros(30), np.zeros(30))
    assert (found.auc, found.advantage) == (0.5, 0.0)


def test_the_rate_at_1_percent_needs_a_hundred_documents():
    draw = np.random.default_rng(0)
    assert attack(draw.normal(size=99), draw.normal(size=99)).caught is None
    rates = [attack(draw.normal(size=100), draw.normal(size=100)).caught for _ in range(60)]
    assert np.mean([rate for rate in rates if rate is not None]) == pytest.approx(0.02, abs=0.015)


@pytest.mark.parametrize(("score", "caught"), [(98.0, 0.0), (98.5, 1.0)])
def test_at_1_percent_one_of_a_hundred_documents_is_a_false_alarm(score, caught):
    assert attack(np.full(100, score), np.arange(100.0)).caught == caught


def test_each_document_is_matched_by_the_nearest_that_is_left():
    assert match([5, 100, 7, 30], [6, 6, 99]) == [0, 2, 1]


def test_fewer_documents_match_fewer():
    assert match([5], [1, 2, 3]) == [0]
    assert match([], [1]) == []
