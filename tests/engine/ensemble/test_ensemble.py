from __future__ import annotations

import itertools
import math

import pytest
import torch

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, contrast, mix
from ssdcli.engine.ensemble.schedules import Constant, Piecewise, Sandwich
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import time_grid

PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex"])
RULES = pytest.mark.parametrize("rule", [mix, average, contrast])
CANVAS = torch.zeros(2, 3, dtype=torch.int64)
LEVELS = time_grid(8)[:-1]

P = [[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]


def ensemble(*members, rule=mix) -> Ensemble:
    """Members from pairs of a denoiser and a weight or a schedule."""
    schedules = [w if callable(w) else Constant(w) for _, w in members]
    named = (Member(f"m{i}", d, s) for i, ((d, _), s) in enumerate(zip(members, schedules, strict=True)))
    return Ensemble(tuple(named), rule)


def real_case(make_denoiser, process: str, count: int = 3):
    """Real members, their prompts for two rows each, a noised canvas and a previous prediction."""
    members = [make_denoiser(process, seed=seed) for seed in range(count)]
    tokens = torch.tensor([[4, 8, 15, 16], [23, 42, 7, 9]])
    first = members[0].process
    canvas = first.corrupt(tokens, torch.full(tokens.shape, 0.6), CounterNoise([1, 2]))
    prompts = [[Prompt([3, 1, 4, 1, 5][: 5 - i]), Prompt([9, 2, 6])] for i in range(count)]
    torch.manual_seed(0)
    previous = torch.log_softmax(torch.randn(2, 4, 50), dim=-1)
    return members, prompts, canvas, previous


def known_prompts(members: int) -> list[list[Prompt]]:
    return [[Prompt([1])]] * members


@RULES
@PROCESSES
def test_weight_one_on_one_member_is_that_member_alone_bit_for_bit(make_denoiser, process, rule):
    members, prompts, canvas, previous = real_case(make_denoiser, process)
    for chosen in range(3):
        group = ensemble(*((m, float(i == chosen)) for i, m in enumerate(members)), rule=rule)
        together = group.denoise(canvas, 0.6, previous, group.start(prompts, LEVELS))
        alone = members[chosen].denoise(canvas, 0.6, previous, members[chosen].start(prompts[chosen]))
        assert torch.equal(together.log_p, alone)
        assert torch.equal(together.by_member[chosen], alone)
        assert [said is None for said in together.by_member] == [i != chosen for i in range(3)]


@PROCESSES
def test_members_of_equal_weights_commute(make_denoiser, process):
    members, prompts, canvas, previous = real_case(make_denoiser, process)
    predictions = []
    for order in itertools.permutations(range(3)):
        group = ensemble(*((members[i], 0.5) for i in order))
        prefixes = group.start([prompts[i] for i in order], LEVELS)
        predictions.append(group.denoise(canvas, 0.6, previous, prefixes).log_p)
    for other in predictions[1:]:
        torch.testing.assert_close(other, predictions[0], rtol=1e-5, atol=1e-5)


def test_two_members_of_equal_weights_commute_bit_for_bit(make_denoiser):
    members, prompts, canvas, previous = real_case(make_denoiser, "simplex", count=2)
    here = ensemble((members[0], 0.5), (members[1], 0.5))
    there = ensemble((members[1], 0.5), (members[0], 0.5))
    assert torch.equal(
        here.denoise(canvas, 0.6, previous, here.start(prompts, LEVELS)).log_p,
        there.denoise(canvas, 0.6, previous, there.start(prompts[::-1], LEVELS)).log_p,
    )


@RULES
@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.0, 0.0), (0.2, 0.3, 0.5), (0.25, 0.0, 0.75)])
def test_members_are_combined_by_the_rule_with_the_weights_that_are_not_zero(known_denoiser, rule, weights):
    group = ensemble(*((known_denoiser(p), w) for p, w in zip(P, weights, strict=False)), rule=rule)
    prediction = group.denoise(CANVAS, 0.5, None, group.start(known_prompts(len(weights)), LEVELS))
    running = [(torch.tensor(p).log(), w) for p, w in zip(P, weights, strict=False) if w]
    expected = rule([log_p for log_p, _ in running], [w for _, w in running])
    assert torch.equal(prediction.log_p, expected.expand(2, 3, 3))
    assert torch.equal(group.combine(prediction.by_member, weights), prediction.log_p)


def test_a_mixture_is_the_renormalised_product_of_powers(known_denoiser):
    group = ensemble(*((known_denoiser(p), w) for p, w in zip(P, (0.2, 0.3, 0.5), strict=True)))
    said = group.denoise(CANVAS, 0.5, None, group.start(known_prompts(3), LEVELS))
    product = [math.prod(p[v] ** w for p, w in zip(P, (0.2, 0.3, 0.5), strict=True)) for v in range(3)]
    expected = torch.tensor(product) / sum(product)
    torch.testing.assert_close(said.log_p.exp(), expected.expand(2, 3, 3))


def test_a_contrast_without_strength_is_the_core_and_calls_nobody_else(known_denoiser):
    core, small, base = (known_denoiser(p) for p in P)
    group = ensemble((core, 1.0), (small, 0.0), (base, -0.0), rule=contrast)
    said = group.denoise(CANVAS, 0.5, None, group.start(known_prompts(3), LEVELS))
    assert torch.equal(said.log_p[0, 0], torch.tensor(P[0]).log())
    assert (small.started, base.started, small.denoised, base.denoised) == (0, 0, 0, 0)


def test_a_member_denoises_at_the_levels_where_its_weight_is_not_zero_and_at_no_other(known_denoiser):
    busy, late = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((busy, 1.0), (late, Piecewise(((0.5, 0.0), (0.25, 0.3)))))
    prefixes = group.start(known_prompts(2), LEVELS)
    for t in LEVELS:
        group.denoise(CANVAS, t, None, prefixes)
    assert busy.levels == LEVELS
    assert late.levels == [0.375, 0.25, 0.125]
    assert (late.started, late.denoised) == (1, 3)


@pytest.mark.parametrize("schedule", [Constant(0.0), Piecewise(((0.1, 0.0), (0.05, 1.0))), Sandwich(1.0, 1.0)])
def test_a_member_whose_weight_is_zero_at_all_levels_of_the_grid_reads_nothing(known_denoiser, schedule):
    idle, busy = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((idle, schedule), (busy, 1.0))
    prefixes = group.start(known_prompts(2), LEVELS)
    for t in LEVELS:
        group.denoise(CANVAS, t, None, prefixes)
    prefixes = group.commit(CANVAS, prefixes)
    group.denoise(CANVAS, 0.5, None, prefixes)
    assert (idle.started, idle.denoised, idle.committed) == (0, 0, 0)
    assert (busy.started, busy.denoised, busy.committed) == (1, len(LEVELS) + 1, 1)


def test_a_member_that_runs_at_one_level_reads_all_that_is_written(known_denoiser):
    rare, busy = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((rare, Piecewise(((0.2, 0.0), (0.125, 1.0)))), (busy, 1.0))
    group.commit(CANVAS, group.commit(CANVAS, group.start(known_prompts(2), LEVELS)))
    assert (rare.started, rare.denoised, rare.committed) == (1, 0, 2)


def test_where_no_member_runs_there_is_nothing_to_say(known_denoiser):
    group = ensemble((known_denoiser(P[0]), Sandwich(1.0, 0.25)))
    prefixes = group.start(known_prompts(1), LEVELS)
    with pytest.raises(ValueError, match="no member runs"):
        group.denoise(CANVAS, 1.0, None, prefixes)


@PROCESSES
def test_a_sandwich_is_the_light_member_at_the_ends_and_the_mixture_in_the_middle_bit_for_bit(make_denoiser, process):
    members, prompts, canvas, previous = real_case(make_denoiser, process, count=2)
    light, heavy = members
    sandwich = ensemble((light, 0.3), (heavy, Sandwich(0.7, light=0.5)))
    mixture = ensemble((light, 0.3), (heavy, 0.7))
    prefixes = sandwich.start(prompts, LEVELS)
    alone = light.start(prompts[0])
    for index, t in enumerate(LEVELS):
        said = sandwich.denoise(canvas, t, previous, prefixes)
        if 2 <= index < 6:
            assert sandwich.weights(t) == (0.3, 0.7)
            assert torch.equal(said.log_p, mixture.denoise(canvas, t, previous, prefixes).log_p)
        else:
            assert sandwich.weights(t) == (0.3, 0.0)
            assert torch.equal(said.log_p, light.denoise(canvas, t, previous, alone))


def test_each_member_reads_its_own_prompts_and_every_committed_block(make_denoiser):
    members, prompts, canvas, previous = real_case(make_denoiser, "masked", count=2)
    group = ensemble((members[0], 0.5), (members[1], 0.5))
    block = torch.tensor([[4, 8, 15, 16], [23, 42, 7, 9]])
    prefixes = group.commit(block, group.start(prompts, LEVELS))
    said = group.denoise(canvas, 0.6, previous, prefixes)
    for member, rows, together in zip(members, prompts, said.by_member, strict=True):
        own = member.commit(block, member.start(rows))
        assert torch.equal(member.denoise(canvas, 0.6, previous, own), together)
