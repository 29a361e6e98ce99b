"""Rounds keep to the clock, and losses that are compared see the same noise."""

from __future__ import annotations

import numpy as np
import pytest

from ssdcli.engine.process.simplex import Simplex
from ssdcli.evaluation.audit.audit import Rounds, paired_losses
from ssdcli.evaluation.losses import LossSettings
from tests.tiny import VOCABULARY, tiny_backbone


class Clock:
    """A clock that every round takes `step` seconds of."""

    def __init__(self, step):
        self.now, self.step = 0.0, step

    def __call__(self):
        now, self.now = self.now, self.now + self.step
        return now


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1), (1.9, 1), (2, 2), (3.5, 3), (100, 8)])
def test_no_round_ends_late_but_the_first(seconds, count):
    shares = []
    rounds = Rounds(8, seconds, shares.append, Clock(1.0))
    assert list(rounds) == list(range(count))
    assert len(shares) == count
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def losses(heldout, rounds=3, members=1):
    models = [tiny_backbone(seed, process="simplex") for seed in range(members)]
    return paired_losses(models, Simplex(VOCABULARY), heldout, LossSettings(16), Rounds(rounds, 100))


def test_equal_documents_have_equal_losses(documents):
    (first,) = documents(11, vocabulary=200)
    (other,) = documents(11, vocabulary=200, seed=1)
    found = losses([first, other, first])
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-3)


def test_each_member_has_a_column_of_its_own(documents):
    heldout = documents(11, 9, vocabulary=200)
    assert losses(heldout, members=2)[:, 0] == pytest.approx(losses(heldout)[:, 0], rel=1e-5)
    assert losses(heldout, members=2).shape == (2, 2)


def test_every_round_draws_anew_and_the_mean_is_taken(documents):
    heldout = documents(11, vocabulary=200)
    one, two = losses(heldout, rounds=1), losses(heldout, rounds=2)
    assert one != pytest.approx(two, rel=1e-4)
    assert np.abs(one - two).max() < 0.5 * one.max()
