"""What the columns of a measurement tell: gains are of documents that did not choose the weight."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform, uniform_nelbo
from ssdcli.evaluation.candidates import find_candidates
from ssdcli.evaluation.combinations import Combined, Positions, cross_entropy
from ssdcli.evaluation.comparison import DENOISING_LOSS, NELBO, Comparison, bound_of
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.losses import LEVELS, LossesByLevel
from ssdcli.registry.store import Registry
from tests.tiny import add_family

V = 4
CORE, SMALL, FIRST, OTHER = range(4)  # columns: two members, then two weights of their ensemble


@pytest.fixture
def columns():
    """Comparison of a core, a small model and their mixtures at two weights."""
    add_family()
    candidates = find_candidates(None, ["notes"], EvalSettings(rules=("mix",), schedules=("constant",)), Registry())
    (sweep,) = candidates.sweeps
    sweep = replace(sweep, weights=sweep.weights[:2], specs=sweep.specs[:2])
    return Comparison(SimpleNamespace(members=candidates.members, sweeps=(sweep,)), "NELBO", ())


def losses_of(sums):
    """Losses in bits, of documents of one byte and one token each."""
    sums = np.array(sums) * math.log(2)
    ones = np.ones(len(sums))
    by_level = np.zeros((LEVELS, sums.shape[1]))
    return LossesByLevel(np.arange(sums.shape[1]), sums, ones, ones, by_level, np.zeros(LEVELS), by_level)


@pytest.mark.parametrize("measured", [Comparison.gain, lambda columns, losses: columns.ensembles(losses)[0].gain])
def test_a_gain_is_of_documents_that_did_not_choose_the_weight(columns, measured):
    """One half of the documents is best at one weight, the other half at the other: what is chosen by one half fails
    on the other, which a gain on the documents that chose would hide."""
    even, odd = [4.0, 5.0, 1.0, 6.0], [4.0, 5.0, 5.0, 2.0]
    losses = losses_of([even, odd] * 6)
    assert losses.sums[:, FIRST].sum() < losses.sums[:, CORE].sum()  # chosen by all documents, it gains 1 bit
    assert measured(columns, losses).value == pytest.approx(4.0 - (6.0 + 5.0) / 2)


def test_a_gain_is_over_the_best_member(columns):
    losses = losses_of([[5.0, 4.0, 3.0, 3.5]] * 6)
    assert columns.gain(losses).value == pytest.approx(1.0)
    assert columns.gain(losses).margin == pytest.approx(0.0, abs=1e-9)


def test_a_base_is_no_member_to_be_gained_over(columns):
    core, small = columns.candidates.members
    columns.candidates.members = (core, replace(small, role="base"))
    assert columns.gain(losses_of([[5.0, 4.0, 3.0, 3.5]] * 6)).value == pytest.approx(2.0)


def test_each_process_has_its_measure():
    assert bound_of(Masked(V, 0)) == (NELBO, cross_entropy)
    assert bound_of(Simplex(V)) == (DENOISING_LOSS, cross_entropy)


def test_the_terms_of_a_nelbo_are_those_of_what_the_members_predict_together():
    name, score = bound_of(Uniform(V))
    said = [torch.log_softmax(torch.randn(9, V), -1) for _ in range(2)]
    tokens, shown, levels = torch.randint(V, (9,)), torch.randint(V, (9,)), torch.rand(9)
    found = score(Combined(average, said, [0.3, 0.7]), Positions(tokens, levels, shown))
    assert name == NELBO
    assert torch.equal(found, uniform_nelbo(average(said, [0.3, 0.7]), tokens, shown, levels))
