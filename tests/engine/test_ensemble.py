from __future__ import annotations

import itertools
import math

import pytest
import torch

from ssdcli.engine.ensemble import Constant, Ensemble, Member, mix
from ssdcli.engine.noise import CounterNoise

PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex"])
CANVAS = torch.zeros(2, 3, dtype=torch.int64)

P = [[0.5, 0.25, 0.25], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]


def ensemble(*members) -> Ensemble:
    """Members from pairs of a denoiser and a weight or a schedule."""
    schedules = [w if callable(w) else Constant(w) for _, w in members]
    return Ensemble(tuple(Member(f"m{i}", d, s) for i, ((d, _), s) in enumerate(zip(members, schedules, strict=True))))


def real_case(make_denoiser, process: str, count: int = 3):
    """Real members, their prefixes for one prompt each, a noised canvas and a previous prediction."""
    members = [make_denoiser(process, seed=seed) for seed in range(count)]
    tokens = torch.tensor([[4, 8, 15, 16], [23, 42, 7, 9]])
    first = members[0].process
    canvas = first.corrupt(tokens, torch.full(tokens.shape, 0.6), CounterNoise([1, 2]))
    prompts = [[[3, 1, 4, 1, 5][: 5 - i], [9, 2, 6]] for i in range(count)]
    torch.manual_seed(0)
    heard = torch.log_softmax(torch.randn(2, 4, 50), dim=-1)
    return members, prompts, canvas, heard


@PROCESSES
def test_weight_one_on_one_member_is_that_member_alone_bit_for_bit(make_denoiser, process):
    members, prompts, canvas, heard = real_case(make_denoiser, process)
    for chosen in range(3):
        group = ensemble(*((m, float(i == chosen)) for i, m in enumerate(members)))
        together = group.denoise(canvas, 0.6, heard, group.start(prompts))
        alone = members[chosen].denoise(canvas, 0.6, heard, members[chosen].start(prompts[chosen]))
        assert torch.equal(together, alone)


@PROCESSES
def test_members_of_equal_weights_commute(make_denoiser, process):
    members, prompts, canvas, heard = real_case(make_denoiser, process)
    predictions = []
    for order in itertools.permutations(range(3)):
        group = ensemble(*((members[i], 0.5) for i in order))
        predictions.append(group.denoise(canvas, 0.6, heard, group.start([prompts[i] for i in order])))
    for other in predictions[1:]:
        torch.testing.assert_close(other, predictions[0], rtol=1e-5, atol=1e-5)


def test_two_members_of_equal_weights_commute_bit_for_bit(make_denoiser):
    members, prompts, canvas, heard = real_case(make_denoiser, "simplex", count=2)
    here = ensemble((members[0], 0.5), (members[1], 0.5))
    there = ensemble((members[1], 0.5), (members[0], 0.5))
    assert torch.equal(
        here.denoise(canvas, 0.6, heard, here.start(prompts)),
        there.denoise(canvas, 0.6, heard, there.start(prompts[::-1])),
    )


def test_equal_members_are_as_one(make_denoiser):
    members, prompts, canvas, heard = real_case(make_denoiser, "masked", count=1)
    group = ensemble(*((members[0], weight) for weight in (0.2, 0.3, 0.5)))
    alone = members[0].denoise(canvas, 0.6, heard, members[0].start(prompts[0]))
    together = group.denoise(canvas, 0.6, heard, group.start(prompts * 3))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [(0.3, 0.7), (1.0, 0.0), (0.2, 0.3, 0.5), (0.25, 0.0, 0.75)])
def test_a_mixture_is_the_renormalised_product_of_powers(known_denoiser, weights):
    group = ensemble(*((known_denoiser(p), w) for p, w in zip(P, weights, strict=False)))
    log_p = group.denoise(CANVAS, 0.5, None, group.start([[[1]]] * len(weights)))
    product = [math.prod(p[v] ** w for p, w in zip(P, weights, strict=False)) for v in range(3)]
    expected = torch.tensor(product) / sum(product)
    assert log_p.shape == (2, 3, 3)
    torch.testing.assert_close(log_p.exp(), expected.expand(2, 3, 3))


def test_only_the_ratio_of_weights_counts(known_denoiser):
    log_ps = [torch.tensor(p).log() for p in P]
    torch.testing.assert_close(mix(log_ps, (0.1, 0.2, 0.3)), mix(log_ps, (1.0, 2.0, 3.0)))


@pytest.mark.parametrize("weight", [0.01, 0.5, 0.99])
def test_what_one_member_excludes_all_exclude(weight):
    log_ps = [torch.tensor([0.5, 0.0, 0.5, 0.0]).log(), torch.tensor([0.25, 0.25, 0.0, 0.5]).log()]
    assert mix(log_ps, (weight, 1 - weight)).exp().tolist() == [1, 0, 0, 0]
    assert mix(log_ps, (weight, 1 - weight)).isneginf().tolist() == [False, True, True, True]


def test_a_mixture_of_low_precision_is_taken_in_float32():
    log_ps = [torch.tensor(p).log().bfloat16() for p in P[:2]]
    expected = mix([log_p.float() for log_p in log_ps], (0.3, 0.7))
    mixed = mix(log_ps, (0.3, 0.7))
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, expected)


def test_a_member_of_weight_zero_does_not_denoise(known_denoiser):
    idle, busy = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((idle, 0.0), (busy, 1.0))
    prefixes = group.start([[[1]], [[1]]])
    for t in (1.0, 0.5, 0.25):
        group.denoise(CANVAS, t, None, prefixes)
    assert (idle.denoised, busy.denoised) == (0, 3)


def test_a_member_whose_weight_is_zero_everywhere_is_never_called(known_denoiser):
    idle, busy = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((idle, 0.0), (busy, 1.0))
    prefixes = group.start([[[1]], [[1]]])
    group.denoise(CANVAS, 0.5, None, prefixes)
    prefixes = group.commit(CANVAS, prefixes)
    group.denoise(CANVAS, 0.5, None, prefixes)
    assert (idle.started, idle.denoised, idle.committed) == (0, 0, 0)
    assert (busy.started, busy.denoised, busy.committed) == (1, 2, 1)


def test_a_schedule_decides_at_each_level_who_runs(known_denoiser):
    """A sandwich: the light member at both ends, the heavy one in the middle, both where they overlap."""
    light, heavy = known_denoiser(P[0]), known_denoiser(P[1])
    group = ensemble((light, lambda t: float(not 0.3 < t < 0.7)), (heavy, lambda t: 0.5 * (0.2 < t < 0.8)))
    prefixes = group.start([[[1]], [[1]]])
    for t, expected in ((0.9, P[0]), (0.5, P[1]), (0.1, P[0])):
        log_p = group.denoise(CANVAS, t, None, prefixes)
        assert torch.equal(log_p[0, 0], torch.tensor(expected).log())
    group.denoise(CANVAS, 0.75, None, prefixes)
    assert group.weights(0.75) == (1.0, 0.5)
    assert light.levels == [0.9, 0.1, 0.75]
    assert heavy.levels == [0.5, 0.75]


def test_each_member_reads_its_own_prompts_and_every_committed_block(make_denoiser):
    members, prompts, canvas, heard = real_case(make_denoiser, "masked", count=2)
    group = ensemble((members[0], 0.5), (members[1], 0.5))
    block = torch.tensor([[4, 8, 15, 16], [23, 42, 7, 9]])
    prefixes = group.commit(block, group.start(prompts))
    for member, rows, prefix in zip(members, prompts, prefixes, strict=True):
        own = member.commit(block, member.start(rows))
        assert torch.equal(prefix.tokens, own.tokens)
        assert torch.equal(member.denoise(canvas, 0.6, heard, prefix), member.denoise(canvas, 0.6, heard, own))
