from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble.rules import Gated, average, contrast, mix

RULES = pytest.mark.parametrize("rule", [mix, average, contrast])
MIXTURES = pytest.mark.parametrize("rule", [mix, average])
INF = math.inf


def predictions(members: int, vocabulary: int, seed: int, scale: float = 3.0) -> list[Tensor]:
    """Log p (2, 3, V) of each member; the larger the scale, the surer."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.log_softmax(scale * torch.randn(2, 3, vocabulary, generator=generator), -1) for _ in range(members)]


@dataclass(frozen=True)
class Case:
    log_ps: list[Tensor]
    weights: list[float]


@st.composite
def cases(draw: st.DrawFn, members: tuple[int, int] = (1, 5)) -> Case:
    """Members that differ in how sure they are, and weights above zero."""
    count = draw(st.integers(*members))
    log_ps = [
        predictions(1, 7, seed=draw(st.integers(0, 1000)), scale=draw(st.sampled_from([0.1, 3.0, 300.0])))[0]
        for _ in range(count)
    ]
    return Case(log_ps, [draw(st.floats(0.01, 10)) for _ in range(count)])


def reference(rule, log_ps: list[Tensor], weights: list[float]) -> Tensor:
    """The rules in float64, as their formulas stand."""
    shares = weights if rule is contrast else [w / sum(weights) for w in weights]
    if rule is average:
        stacked = torch.stack([log_p.double() + math.log(w) for log_p, w in zip(log_ps, shares, strict=True)])
        return torch.logsumexp(stacked, 0)
    return torch.log_softmax(sum(w * log_p.double() for log_p, w in zip(log_ps, shares, strict=True)), -1)


def assert_normalised(log_p: Tensor) -> None:
    assert log_p.dtype == torch.float32
    assert not log_p.isnan().any()
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(log_p.shape[:-1]), rtol=0, atol=1e-5)


@RULES
@given(case=cases())
def test_a_rule_is_its_formula_in_float32_and_normalised(rule, case):
    combined = rule(case.log_ps, case.weights)
    assert_normalised(combined)
    scale = 1 + sum(w * log_p.abs().double() for log_p, w in zip(case.log_ps, case.weights, strict=True))
    error = (combined.double() - reference(rule, case.log_ps, case.weights)).abs()
    assert (error <= 1e-6 * scale.amax(-1, keepdim=True)).all()


@RULES
def test_weight_one_on_one_member_is_that_member_bit_for_bit(rule):
    (log_p,) = predictions(1, 1000, seed=0)
    assert torch.equal(rule([log_p], [1.0]), log_p)


@MIXTURES
@pytest.mark.parametrize("weight", [1e-3, 0.3, 7.0])
def test_a_single_member_of_a_mixture_has_all_the_weight(rule, weight):
    (log_p,) = predictions(1, 1000, seed=0)
    assert torch.equal(rule([log_p], [weight]), log_p)


@RULES
def test_two_members_of_equal_weights_commute_bit_for_bit(rule):
    here, there = predictions(2, 1000, seed=1)
    assert torch.equal(rule([here, there], [0.7, 0.7]), rule([there, here], [0.7, 0.7]))


@RULES
@given(case=cases(), data=st.data())
def test_the_order_of_members_does_not_matter(rule, case, data):
    order = data.draw(st.permutations(range(len(case.weights))))
    other = rule([case.log_ps[i] for i in order], [case.weights[i] for i in order])
    torch.testing.assert_close(other, rule(case.log_ps, case.weights), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(other.exp(), rule(case.log_ps, case.weights).exp(), rtol=0, atol=1e-3)


@MIXTURES
@given(case=cases(), factor=st.floats(0.01, 100))
def test_only_the_ratio_of_a_mixtures_weights_counts(rule, case, factor):
    scaled = rule(case.log_ps, [factor * w for w in case.weights])
    torch.testing.assert_close(scaled, rule(case.log_ps, case.weights), rtol=1e-5, atol=1e-4)


@MIXTURES
@given(case=cases(members=(1, 1)), weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=5))
def test_members_that_agree_are_as_one(rule, case, weights):
    (log_p,) = case.log_ps
    torch.testing.assert_close(rule([log_p] * len(weights), weights), log_p, rtol=1e-5, atol=1e-4)


@MIXTURES
@pytest.mark.parametrize("weights", [(0.5, 0.0), (0.5, -0.1)])
def test_a_mixture_refuses_weights_that_are_not_above_zero(rule, weights):
    with pytest.raises(ValueError, match="above zero"):
        rule(predictions(2, 5, seed=0), weights)


@RULES
@pytest.mark.parametrize("members", [1, 2, 3])
def test_low_precision_costs_no_more_than_its_own_rounding(rule, members):
    exact = predictions(members, 50_000, seed=2)
    weights = [1.0, 0.6, 0.4][:members]
    combined = rule([log_p.bfloat16() for log_p in exact], weights)
    assert combined.dtype == torch.float32
    rounding = 2**-8 * sum(w * log_p.abs().amax() for w, log_p in zip(weights, exact, strict=True))
    assert (combined - reference(rule, exact, weights)).abs().amax() <= rounding
    widened = rule([log_p.bfloat16().float() for log_p in exact], weights)
    assert torch.equal(combined, widened)


@RULES
def test_a_large_vocabulary_stays_normalised(rule):
    log_ps = [log_p for scale in (0.1, 10.0) for log_p in predictions(1, 50_000, seed=3, scale=scale)]
    combined = rule(log_ps, [0.3, 0.7])
    assert_normalised(combined)
    torch.testing.assert_close(combined.double(), reference(rule, log_ps, [0.3, 0.7]), rtol=1e-5, atol=1e-5)


@RULES
@pytest.mark.parametrize("low", [-1e4, -INF])
def test_members_that_are_sure_of_one_token_agree_on_it(rule, low):
    sure = torch.tensor([[low, 0.0, low, low]])
    assert_normalised(rule([sure, sure, sure], [0.2, 0.3, 0.5]))
    torch.testing.assert_close(rule([sure, sure, sure], [0.2, 0.3, 0.5]).exp(), sure.exp(), rtol=0, atol=1e-6)


@RULES
@pytest.mark.parametrize("low", [-1e4, -INF])
def test_of_members_that_are_sure_of_different_tokens_the_heaviest_is_likeliest(rule, low):
    sure = [torch.full((1, 4), low).index_fill(-1, torch.tensor([token]), 0.0) for token in range(3)]
    for weights in itertools.permutations([0.2, 0.3, 0.5]):
        combined = rule(sure, weights)
        assert_normalised(combined)
        assert combined.argmax() == weights.index(0.5)


@pytest.mark.parametrize("rule", [mix, contrast])
@pytest.mark.parametrize("weight", [0.01, 0.5, 0.99])
def test_what_one_member_excludes_all_exclude(rule, weight):
    log_ps = [torch.tensor([0.5, 0.0, 0.5, 0.0]).log(), torch.tensor([0.25, 0.25, 0.0, 0.5]).log()]
    assert rule(log_ps, (weight, 1 - weight)).tolist() == [0, -INF, -INF, -INF]


def test_an_average_excludes_what_all_exclude():
    log_ps = [torch.tensor([0.5, 0.0, 0.5, 0.0]).log(), torch.tensor([0.2, 0.3, 0.5, 0.0]).log()]
    torch.testing.assert_close(average(log_ps, (1.0, 3.0)).exp(), torch.tensor([0.275, 0.225, 0.5, 0.0]))


def test_a_contrast_is_the_core_where_small_and_base_agree():
    core, small = predictions(2, 1000, seed=4, scale=20.0)
    torch.testing.assert_close(contrast([core, small, small], [1, 0.8, -0.8]), core, rtol=1e-5, atol=1e-4)


def test_a_contrast_cancels_even_what_small_and_base_hold_for_impossible():
    core = torch.tensor([[0.1, 0.9]]).log()
    sure = torch.tensor([[0.0, -150.0]])
    torch.testing.assert_close(contrast([core, sure, sure], [1, 0.5, -0.5]), core, rtol=1e-4, atol=1e-4)


def test_a_stronger_contrast_favours_what_small_says_and_base_does_not():
    core, small, base = predictions(3, 50, seed=5)
    strengths = [0.0, 0.1, 0.5, 1.0, 2.0, 5.0]
    contrasted = [contrast([core, small, base], [1, a, -a]) for a in strengths]
    ratio = small - base
    chosen = torch.stack([log_p.gather(-1, ratio.argmax(-1, keepdim=True)) for log_p in contrasted])
    means = torch.stack([(log_p.exp() * ratio).sum(-1) for log_p in contrasted])
    assert (chosen.diff(dim=0) > 0).all()
    assert (means.diff(dim=0) > 0).all()


def test_a_contrast_excludes_what_core_or_small_excludes_whatever_the_base_says():
    core = torch.tensor([0.0, 0.4, 0.4, 0.2]).log()
    small = torch.tensor([0.5, 0.0, 0.3, 0.2]).log()
    for base in ([0.25] * 4, [0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]):
        combined = contrast([core, small, torch.tensor(base).log()], [1, 0.5, -0.5])
        assert combined.isneginf().tolist() == [True, True, False, False]
        assert_normalised(combined)


def test_what_the_base_alone_excludes_is_favoured_as_if_it_gave_it_very_little():
    core, small, _ = predictions(3, 4, seed=6)
    base = torch.tensor([0.0, 0.2, 0.3, 0.5]).log()
    bounded = base.index_fill(-1, torch.tensor([0]), -100.0)
    excluded = contrast([core, small, base.expand_as(core)], [1, 0.5, -0.5])
    assert torch.equal(excluded, contrast([core, small, bounded.expand_as(core)], [1, 0.5, -0.5]))
    assert_normalised(excluded)
    assert (excluded[..., 0] > core[..., 0]).all()


@RULES
def test_a_members_fault_is_not_hidden(rule):
    log_p = torch.tensor([0.0, -INF])
    for broken in ([log_p, log_p * math.nan], [log_p * math.nan, log_p]):
        assert rule(broken, [0.5, 0.5]).isnan().any()
    assert contrast([log_p, log_p * math.nan], [1, -0.5]).isnan().any()


GATES = pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.7, -0.4), (-30.0, 2.0), (5.0, 50.0)])


@GATES
@given(case=cases(members=(2, 2)))
def test_a_gate_is_a_mix_at_the_weights_of_each_position(numbers, case):
    rule = Gated(*numbers)
    combined = rule(case.log_ps, case.weights)
    assert_normalised(combined)
    unsure = [-(log_p.exp() * log_p).sum(-1) for log_p in case.log_ps]
    odds = math.log(case.weights[1] / case.weights[0]) + numbers[0] * unsure[0] + numbers[1] * unsure[1]
    for row, place in itertools.product(*map(range, odds.shape)):
        share = float(torch.sigmoid(odds[row, place].double().clamp(-15, 15)))
        mixed = mix([log_p[row, place] for log_p in case.log_ps], [1 - share, share])
        torch.testing.assert_close(combined[row, place], mixed, rtol=1e-4, atol=2e-3)


def test_a_gate_gives_the_weight_to_the_member_that_is_surer():
    sure, unsure = predictions(2, 9, seed=0, scale=1.0)
    sure = torch.log_softmax(20 * sure, -1)
    for order in ([sure, unsure], [unsure, sure]):
        combined = Gated(3.0, -3.0)(order, [0.5, 0.5])
        assert (combined.exp() - sure.exp()).abs().max() < 0.02


@pytest.mark.parametrize("odds", [-1e6, 1e6])
def test_a_gate_never_silences_what_a_member_excludes(odds):
    one, other = (torch.log_softmax(torch.tensor([[1.0, 2.0, 3.0]]), -1) for _ in range(2))
    one[0, 0] = other[0, 1] = -INF
    combined = Gated(odds, 0.0)([one, other], [0.5, 0.5])
    assert combined.isneginf().tolist() == [[True, True, False]]


def test_a_gated_member_that_runs_alone_decides_alone():
    (log_p,) = predictions(1, 9, seed=0)
    assert torch.equal(Gated(2.0, 1.0)([log_p], [1.0]), log_p)


@pytest.mark.parametrize(("weights", "decides"), [([0.7, 0.3], 0), ([0.3, 0.7], 1)])
def test_where_a_gate_leaves_no_token_the_heavier_member_decides_alone(weights, decides):
    log_ps = [torch.tensor([0.25, 0.75, 0.0, 0.0]).log(), torch.tensor([0.0, 0.0, 0.5, 0.5]).log()]
    assert torch.equal(Gated(0.0, 0.0)(log_ps, weights), log_ps[decides])
