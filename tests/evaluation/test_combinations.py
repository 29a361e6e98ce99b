"""One measurement serves every rule, weight and schedule, and each is what the engine's ensemble predicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant, Piecewise, Sandwich, sharing
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.evaluation.combinations import Combination, Positions, alone, combined_losses
from ssdcli.evaluation.losses import LEVELS, LossSettings, measure, measure_combinations
from tests.tiny import VOCABULARY, tiny_backbone

V, N = 12, 200
PROCESSES = pytest.mark.parametrize("process", [Masked(VOCABULARY, 1), Simplex(VOCABULARY)], ids=["masked", "simplex"])
LINE = Piecewise(((1.0, 0.1), (0.4, 0.9), (0.0, 0.5)))
COMBINATIONS = {
    "mix": Combination(mix, (Constant(0.7), Constant(0.3), Constant(0.0))),
    "average": Combination(average, (Constant(0.7), Constant(0.3), Constant(0.0))),
    "three": Combination(average, (Constant(0.5), Constant(0.3), Constant(0.2))),
    "contrast": Combination(contrast, (Constant(1.0), Constant(0.4), Constant(-0.4))),
    "sandwich": Combination(mix, (Sandwich(0.6, 0.4), Constant(0.4), Constant(0.0))),
    "leaning": Combination(mix, (*sharing(0.3, "simplex"), Constant(0.0))),
    "line": Combination(average, (LINE, Constant(0.4), Constant(0.0))),
    "contrasting line": Combination(contrast, (Constant(1.0), LINE, Piecewise(tuple((t, -w) for t, w in LINE.points)))),
    "alone": alone(1, 3),
}


def drawn(seed: int = 0) -> tuple[list[torch.Tensor], Positions]:
    """Predictions of three members, some tokens excluded, at levels some of which are equal."""
    generator = torch.Generator().manual_seed(seed)
    log_ps = [torch.log_softmax(3 * torch.randn(N, V, generator=generator), -1) for _ in range(3)]
    tokens = torch.randint(V, (N,), generator=generator)
    levels = (torch.randint(20, (N,), generator=generator) + 0.5) / 20
    return log_ps, Positions(tokens, levels, tokens)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_position_loses_what_the_ensemble_loses_at_its_level(name):
    combination = COMBINATIONS[name]
    log_ps, positions = drawn()
    found = combined_losses(log_ps, positions, list(COMBINATIONS.values()))[:, list(COMBINATIONS).index(name)]
    members = tuple(Member("", None, schedule) for schedule in combination.schedules)
    ensemble = Ensemble(members, combination.rule)
    for row, (token, level) in enumerate(zip(positions.tokens, positions.levels, strict=True)):
        weights = ensemble.weights(float(level))
        said = [log_p[row] if weight != 0 else None for log_p, weight in zip(log_ps, weights, strict=True)]
        assert float(found[row]) == pytest.approx(-float(ensemble.combine(said, weights)[token]), rel=1e-5, abs=1e-6)


def test_a_member_is_not_asked_where_its_weight_is_zero():
    log_ps, positions = drawn()
    log_ps[0] = torch.full((N, V), math.nan)
    found = combined_losses(log_ps, positions, [COMBINATIONS["sandwich"], COMBINATIONS["alone"]])
    light = (positions.levels <= 0.2) | (positions.levels > 0.8)
    assert torch.equal(found[:, 0].isnan(), ~light)
    assert torch.equal(found[light, 0], found[light, 1])


def test_each_is_computed_once_however_many_need_it():
    calls = []

    def counting(log_ps, weights):
        calls.append(len(log_ps[0]))
        return mix(log_ps, weights)

    log_ps, positions = drawn()
    always = Combination(counting, (Constant(0.6), Constant(0.4), Constant(0.0)))
    sometimes = Combination(counting, (Sandwich(0.6, 0.4), Constant(0.4), Constant(0.0)))
    light = int(((positions.levels <= 0.2) | (positions.levels > 0.8)).sum())
    combined_losses(log_ps, positions, [always, always, sometimes])
    assert sorted(calls) == sorted([N, light])


@PROCESSES
def test_one_measurement_of_many_is_many_measurements(process, documents):
    heldout = documents(9, 30, 14, 3, vocabulary=200)
    members = [tiny_backbone(seed, process=process.name) for seed in range(3)]
    settings = LossSettings(16)
    found = measure_combinations(members, process, heldout, list(COMBINATIONS.values()), settings)
    for column, combination in enumerate(COMBINATIONS.values()):
        alone_found = measure_combinations(members, process, heldout, [combination], settings)
        np.testing.assert_allclose(found.sums[:, column], alone_found.sums[:, 0], rtol=1e-5)
        np.testing.assert_allclose(found.level_sums[:, column], alone_found.level_sums[:, 0], rtol=1e-4, atol=1e-4)
    default = "leaning" if catalogue.process(process.name).schedule == "leaning" else "mix"
    shares = measure(members[:2], process, heldout, [0.3, 1.0], settings)
    np.testing.assert_allclose(found.sums[:, list(COMBINATIONS).index(default)], shares.sums[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.sums[:, -1], shares.sums[:, 1], rtol=1e-5)


@PROCESSES
def test_a_sandwich_loses_what_the_light_member_loses_at_the_ends_and_what_both_lose_between(process, documents):
    heldout = documents(*[31] * 6, vocabulary=200)
    members = [tiny_backbone(seed, process=process.name) for seed in range(2)]
    light, both = alone(1, 2), Combination(mix, (Constant(0.6), Constant(0.4)))
    sandwich = Combination(mix, (Sandwich(0.6, 0.4), Constant(0.4)))  # its bounds are those of stretches of levels
    found = measure_combinations(members, process, heldout, [light, both, sandwich], LossSettings(32)).level_sums
    ends = np.isin(np.arange(LEVELS), [0, 1, 8, 9])
    np.testing.assert_allclose(found[ends, 2], found[ends, 0], rtol=1e-5)
    np.testing.assert_allclose(found[~ends, 2], found[~ends, 1], rtol=1e-5)
    assert (found[:, 0] != found[:, 1]).sum() > LEVELS / 2
