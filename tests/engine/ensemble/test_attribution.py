from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble.attribution import Explanation, shares
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant, Sandwich
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import sample
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.sampling.stopping import EarlyStop
from ssdcli.engine.steps import SamplerConfig

RULES = pytest.mark.parametrize("rule", [mix, average, contrast])
V, L = 6, 4
PROCESSES = pytest.mark.parametrize(
    "process", [Masked(V, mask_id=V - 1), Simplex(V), Uniform(V)], ids=["masked", "simplex", "uniform"]
)
P, Q = [0.3, 0.25, 0.2, 0.15, 0.1, 0.0], [0.1, 0.05, 0.05, 0.7, 0.1, 0.0]


def ensemble(rule: Any, *members: tuple[Any, Any]) -> Ensemble:
    """Members from pairs of a denoiser and a weight or a schedule."""
    schedules = [w if callable(w) else Constant(w) for _, w in members]
    pairs = enumerate(zip(members, schedules, strict=True))
    return Ensemble(tuple(Member(f"m{i}", d, s) for i, ((d, _), s) in pairs), rule)


def owed(rule: Any, ps: list[list[float] | None], weights: list[float], token: int = 0) -> list[float]:
    """The shares in one token of members that give these probabilities (None: not run)."""
    by_member = [None if p is None else torch.tensor(p).log()[None, None] for p in ps]
    result = shares(ensemble(rule, *((None, w) for w in weights)), by_member, weights, torch.tensor([[token]]))
    assert result.shape == (1, 1, len(ps))
    assert result.dtype == torch.float32
    return result[0, 0].tolist()


def near(*values: float) -> Any:
    return pytest.approx(values, abs=1e-5)


@RULES
@pytest.mark.parametrize("token", [0, 3])
def test_a_member_alone_is_owed_everything(rule, token):
    assert owed(rule, [P], [1.0], token) == [1.0]


@RULES
def test_members_that_say_the_same_with_the_same_weight_share_alike(rule):
    assert owed(rule, [P, P], [0.5, 0.5]) == near(0.5, 0.5)
    assert owed(rule, [P, Q, Q], [0.2, 0.4, 0.4], token=3) == near(0.0, 0.5, 0.5)


@RULES
def test_a_member_that_knows_nothing_is_owed_nothing(rule):
    flat = [0.25] * 4
    assert owed(rule, [[0.7, 0.1, 0.1, 0.1], flat], [0.3, 0.7]) == near(1.0, 0.0)
    assert owed(rule, [flat, [0.7, 0.1, 0.1, 0.1], [0.4, 0.2, 0.2, 0.2]], [0.6, 0.3, 0.1])[0] == 0.0


@RULES
def test_a_member_that_is_not_run_is_owed_nothing(rule):
    assert owed(rule, [None, P], [0.0, 1.0]) == [0.0, 1.0]
    assert owed(rule, [P, None, P], [0.5, 0.0, 0.5]) == near(0.5, 0.0, 0.5)


@RULES
def test_a_member_that_spoke_against_a_token_is_owed_nothing(rule):
    assert owed(rule, [[0.9, 0.1], [0.4, 0.6]], [0.5, 0.5]) == near(1.0, 0.0)
    assert owed(rule, [[0.9, 0.1], [0.4, 0.6]], [0.5, 0.5], token=1) == near(0.0, 1.0)


@RULES
def test_what_none_spoke_for_is_shared_by_absolute_weight(rule):
    flat = [1 / 3] * 3
    assert owed(rule, [flat, flat], [0.3, 0.9]) == near(0.25, 0.75)
    assert owed(contrast, [flat, flat, flat], [1.0, 0.5, -0.5]) == near(0.5, 0.25, 0.25)
    assert owed(rule, [[0.1, 0.9], None, [0.2, 0.8]], [0.9, 0.0, 0.1]) == near(0.9, 0.0, 0.1)


def test_opposed_opinions_in_a_mixture_by_hand():
    """Over tokens x and y with odds a : 1 and b : 1, v(S) = -log(1 + odds^-w), and uniform members have odds of 1."""
    a, b, w = 9.0, 4.0, (0.9, 0.1)
    one, other, both = (-math.log1p(odds**-1) for odds in (a ** w[0], b ** w[1], a ** w[0] * b ** w[1]))
    none = -math.log(2)
    values = [(one - none + both - other) / 2, (other - none + both - one) / 2]
    expected = [value / sum(values) for value in values]
    assert sum(values) == pytest.approx(both - none)
    assert owed(mix, [[0.9, 0.1], [0.8, 0.2]], list(w)) == near(*expected)
    assert owed(mix, [[0.9, 0.1], [0.1, 0.9]], list(w)) == near(1.0, 0.0)
    assert owed(mix, [[0.9, 0.1], [0.1, 0.9]], list(w), token=1) == near(0.0, 1.0)


def test_an_average_by_hand():
    """Only the second member has the token at all: the first, however heavy, is in its way."""
    assert owed(average, [[0.0, 1.0], [1.0, 0.0]], [0.9, 0.1]) == near(0.0, 1.0)
    none, one, other, both = math.log(0.5), math.log(0.75), math.log(0.65), math.log(0.9)
    values = [(one - none + both - other) / 2, (other - none + both - one) / 2]
    expected = [value / sum(values) for value in values]
    assert owed(average, [[1.0, 0.0], [0.8, 0.2]], [0.5, 0.5]) == near(*expected)


def test_a_contrast_by_hand():
    """In log odds, the core says c, the small model s and its base b; together, c + a (s - b)."""
    core, small, base, a = [0.6, 0.4], [0.9, 0.1], [0.2, 0.8], 0.5
    c, s, b = (math.log(p[0] / p[1]) for p in (core, small, base))
    terms = [c, a * s, -a * b]
    values = [0.0, 0.0, 0.0]
    for order in itertools.permutations(range(3)):
        odds = 0.0
        for member in order:
            values[member] += (math.log1p(math.exp(-odds)) - math.log1p(math.exp(-odds - terms[member]))) / 6
            odds += terms[member]
    assert min(values) > 0  # a base that would not have said the token is owed something
    assert owed(contrast, [core, small, base], [1.0, a, -a]) == near(*(value / sum(values) for value in values))
    assert owed(contrast, [core, small, small], [1.0, a, -a])[2] == 0.0


@RULES
def test_what_members_exclude_does_no_harm(rule):
    """A token that no member of positive weight excludes is explained in finite numbers, whoever excludes others."""
    ps = [[0.5, 0.5, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.2, 0.3, 0.1, 0.4]]
    for order in itertools.permutations(ps):
        assert sum(owed(rule, list(order), [0.5, 0.3, 0.2])) == pytest.approx(1)
    assert sum(owed(contrast, [ps[0], ps[2], ps[1]], [1.0, 0.5, -0.5], token=1)) == pytest.approx(1)
    # Nothing is left of the three together, and the heaviest decides.
    split = [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]
    assert sum(owed(rule, split, [0.5, 0.3, 0.2])) == pytest.approx(1)


def by_permutations(rule: Any, ps: Tensor, weights: list[float]) -> list[float]:
    """Shapley values of token 0 from their definition: the mean over all orders of what each adds when it joins."""
    count, flat = len(weights), torch.full_like(ps[0], 1 / ps.shape[1]).log()
    values = [0.0] * count
    for order in itertools.permutations(range(count)):
        said = [flat] * count
        before = rule(said, weights)[0]
        for member in order:
            said[member] = ps[member].log()
            after = rule(said, weights)[0]
            values[member] += float(after - before) / math.factorial(count)
            before = after
    return values


@RULES
@given(
    logits=st.lists(st.lists(st.floats(-4, 4), min_size=5, max_size=5), min_size=3, max_size=3),
    weights=st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
)
def test_shares_are_the_positive_parts_of_the_mean_gains_over_all_orders(rule, logits, weights):
    weights = [*weights[:2], -weights[2]] if rule is contrast else weights
    ps = torch.softmax(torch.tensor(logits), -1)
    values = by_permutations(rule, ps, weights)
    gains = [max(value, 0.0) for value in values]
    if sum(gains) > 0.05:  # where there is next to nothing to share, rounding decides
        expected = [gain / sum(gains) for gain in gains]
        assert owed(rule, ps.tolist(), weights) == pytest.approx(expected, abs=5e-3)


@RULES
def test_a_row_owes_the_same_in_any_batch_bit_for_bit(rule):
    torch.manual_seed(0)
    by_member = [torch.log_softmax(torch.randn(5, L, 999), -1) for _ in range(4)]
    weights, tokens = [0.4, 0.3, 0.2, 0.1], torch.randint(999, (5, L))
    group = ensemble(rule, *((None, w) for w in weights))
    together = shares(group, by_member, weights, tokens)
    for row, place in itertools.product(range(5), range(L)):
        alone = shares(
            group, [log_p[row, place][None, None] for log_p in by_member], weights, tokens[row, place][None, None]
        )
        assert torch.equal(alone[0, 0], together[row, place])


def explained(group: Ensemble, process: Process, **changes: Any) -> list[tuple[Explanation, list[Any]]]:
    """Every block's explanation at its end, with its steps."""
    how = replace(reverse_process(process), steps=changes.pop("steps", 5), stop=changes.pop("stop", None))
    prompts = [[Prompt([1])] * 3] * len(group.members)
    steps = list(sample(group, how, prompts, [1, 2, 3], SamplerConfig(L, 3 * L, (-1,), Picker(), **changes)))
    blocks = []
    for _, of_block in itertools.groupby(steps, lambda step: step.block):
        explanation, taken = Explanation.empty(group, torch.zeros(3, L, dtype=torch.int64)), list(of_block)
        for step in taken:
            explanation = explanation.after(step, process.tokens(step.canvas))
        blocks.append((explanation, taken))
    return blocks


@PROCESSES
@pytest.mark.parametrize("stop", [None, EarlyStop(entropy=9.0)], ids=["to the end", "early"])
@pytest.mark.parametrize("rule", [mix, average])
def test_the_shares_of_a_whole_text_sum_to_one_at_every_position(known_denoiser, process, stop, rule):
    group = ensemble(rule, (known_denoiser(P), 0.6), (known_denoiser(Q), 0.4))
    for explanation, steps in explained(group, process, stop=stop):
        assert len(steps) < 5 or stop is None
        assert torch.allclose(explanation.shares.sum(-1), torch.ones(3, L))
        assert explanation.shares.shape == (3, L, 2)
        assert (explanation.shares >= 0).all()


@PROCESSES
@pytest.mark.parametrize("stop", [None, EarlyStop(entropy=9.0)], ids=["to the end", "early"])
def test_p_is_the_ensembles_probability_of_the_token_that_was_kept(known_denoiser, process, stop):
    group = ensemble(mix, (known_denoiser(P), 0.6), (known_denoiser(Q), 0.4))
    p = group.denoise(torch.zeros(1, 1, dtype=torch.int64), 1.0, None, (0, 0)).log_p[0, 0].exp()
    for explanation, steps in explained(group, process, stop=stop):
        assert torch.equal(explanation.p, p[process.tokens(steps[-1].canvas)])


class Guiding:
    """Wants token 0."""

    scale = 1.0

    def push(self, log_p: Tensor, written: Tensor) -> Tensor:
        return torch.tensor([2.0] + [0.0] * (V - 1)).expand_as(log_p)


@PROCESSES
def test_a_guide_counts_in_p_and_not_in_the_shares(known_denoiser, process):
    group = ensemble(mix, (known_denoiser(P), 0.5), (known_denoiser(P), 0.5))
    pushed = torch.softmax(torch.tensor(P).log() + torch.tensor([2.0] + [0.0] * (V - 1)), -1)
    for explanation, steps in explained(group, process, guides=(Guiding(),)):
        assert torch.allclose(explanation.p, pushed[process.tokens(steps[-1].canvas)])
        assert torch.allclose(explanation.shares, torch.full((3, L, 2), 0.5))


def test_a_token_is_owed_to_those_who_ran_when_it_was_decided(known_denoiser):
    """A sandwich over a masked canvas, one position a step: the light member decides the first and the last alone."""
    process = Masked(V, mask_id=V - 1)
    group = ensemble(mix, (known_denoiser(P), 0.5), (known_denoiser(P), Sandwich(0.5, light=0.5)))
    for explanation, steps in explained(group, process, steps=L):
        assert [step.weights for step in steps] == [(0.5, 0.0), (0.5, 0.5), (0.5, 0.5), (0.5, 0.0)]
        for step in steps:
            expected = torch.tensor([1.0, 0.0] if step.weights[1] == 0 else [0.5, 0.5])
            assert step.decided.sum() == 3
            assert torch.allclose(explanation.shares[step.decided], expected.expand(3, 2))


@pytest.mark.parametrize("process", [Simplex(V), Uniform(V)], ids=["simplex", "uniform"])
def test_what_is_decided_again_is_owed_to_those_who_ran_when_it_last_changed(known_denoiser, process):
    early, late = (lambda t: float(t > 0.07)), (lambda t: float(t <= 0.07))  # of 16 steps, the last alone is late
    group = ensemble(mix, (known_denoiser(P), early), (known_denoiser(P), late))
    for explanation, steps in explained(group, process, steps=16):
        assert {step.weights for step in steps} == {(1.0, 0.0), (0.0, 1.0)}
        second = torch.zeros(3, L)
        for step in steps:
            second = torch.where(step.decided, step.weights[1], second)
        assert torch.equal(explanation.shares, torch.stack([1 - second, second], dim=-1))
    assert second.any()
