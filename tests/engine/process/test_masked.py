from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise, GeneratorNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampler import time_grid
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from ssdcli.engine.sampling.unmasking import Unmasking
from tests.engine.process.toys import (
    GREEDY,
    LENGTH,
    OUTCOMES,
    TEXT,
    chi_square,
    correlated_joint,
    counted,
    drawn_from,
    independent_joint,
    marginals,
    noise_of,
    sampler,
    times,
)

MASK = 3
PROCESS = Masked(TEXT + 1, mask_id=MASK)
SAMPLER = sampler(PROCESS)
SAMPLINGS = [Choice(one.name) for one in catalogue.samplers("masked")]
SOONER = [Choice("top-k", 2), Choice("threshold", 0.4), Choice("entropy-bound", 1.0)]
CANVASES = torch.tensor(list(itertools.product(range(TEXT + 1), repeat=LENGTH)))
BY_TIME = [Choice(), Choice("ancestral")]


def exact_log_p(canvas: Tensor, joint: Tensor) -> Tensor:
    """log p(x0 at each position | the known tokens of the canvas), by enumeration: (B, L, V)."""
    fits = ((CANVASES[:, None] == MASK) | (CANVASES[:, None] == OUTCOMES)).all(-1)
    return marginals(fits * joint, TEXT + 1)[canvas_code(canvas)]


def canvas_code(canvas: Tensor) -> Tensor:
    """The place of each canvas among CANVASES: (B,)."""
    return (canvas * torch.tensor([16, 4, 1])).sum(-1)


def denoised(one: Unmasking, joint: Tensor, levels: Sequence[float], count: int) -> Tensor:
    """Canvases after steps down to each of the levels: (count, L)."""
    canvas = one.process.prior(LENGTH, CounterNoise(range(count)))
    for index, s in enumerate(levels):
        canvas = one.step(
            canvas, Prediction(exact_log_p(canvas, joint)), times(s, count), Picker(), noise_of(index, count)
        )
    return canvas


def random_log_p(rows: int, length: int, seed: int = 0) -> Tensor:
    """Predictions of any sort, of text alone: (B, L, V)."""
    log_p = 2 * torch.randn(rows, length, TEXT + 1, generator=torch.Generator().manual_seed(seed))
    log_p[..., MASK] = -math.inf
    return log_p.log_softmax(-1)


def of_probabilities(*p: list[float]) -> Tensor:
    """Predictions for one row: (1, L, V)."""
    return torch.tensor([[*row, 0.0] for row in p]).log()[None]


def test_the_prior_is_all_masks():
    assert PROCESS.prior(5, CounterNoise([1, 2])).tolist() == [[MASK] * 5] * 2


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_a_share_t_of_the_tokens_is_hidden_and_the_rest_is_as_it_was(t):
    tokens = torch.randint(TEXT, (50, 1000), generator=torch.Generator().manual_seed(1))
    canvas = PROCESS.corrupt(tokens, torch.full(tokens.shape, t), CounterNoise(range(50)))
    hidden = canvas == MASK
    assert abs(float(hidden.double().mean()) - t) <= 4 * math.sqrt(t * (1 - t) / tokens.numel())
    assert torch.equal(canvas[~hidden], tokens[~hidden])


def test_each_position_has_its_own_level():
    t = torch.tensor([[0.0, 1.0] * 20])
    canvas = PROCESS.corrupt(torch.zeros(1, 40, dtype=torch.int64), t, CounterNoise([3]))
    assert torch.equal(canvas == MASK, t == 1)


def test_positions_are_hidden_independently():
    tokens = torch.zeros(20_000, 2, dtype=torch.int64)
    hidden = PROCESS.corrupt(tokens, torch.full(tokens.shape, 0.4), CounterNoise(range(20_000))) == MASK
    both = float(hidden.all(-1).double().mean())
    assert abs(both - 0.16) < 4 * math.sqrt(0.16 * 0.84 / 20_000)


@pytest.mark.parametrize("sampling", [*SAMPLINGS, *SOONER], ids=str)
@pytest.mark.parametrize("s", [0.9, 0.5, 0.0])
def test_a_clean_canvas_is_a_fixed_point(sampling, s):
    tokens = torch.tensor([[0, 1, 2, 2, 1, 0]])
    one = sampler(PROCESS, sampling)
    assert torch.equal(PROCESS.tokens(tokens), tokens)
    assert torch.equal(
        one.step(tokens, Prediction(random_log_p(1, 6)), times(s, 1), Picker(), CounterNoise([1])), tokens
    )
    remasking = sampler(PROCESS, replace(sampling, remask=0.9))
    again = remasking.step(tokens, Prediction(random_log_p(1, 6)), times(0.0, 1), Picker(), CounterNoise([1]))
    assert torch.equal(again, tokens)


@pytest.mark.parametrize("sampling", BY_TIME, ids=str)
@pytest.mark.parametrize("remask", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16, 40])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_each_level_leaves_its_share_hidden_and_the_last_nothing(sampling, remask, steps, length):
    one = sampler(PROCESS, replace(sampling, remask=remask))
    canvas = PROCESS.prior(length, CounterNoise([0, 1]))
    for index, s in enumerate(time_grid(steps)[1:]):
        before = canvas
        log_p = random_log_p(2, length, seed=index)
        canvas = one.step(canvas, Prediction(log_p), times(s, 2), Picker(), noise_of(index, 2))
        assert ((canvas == MASK).sum(-1) == math.floor(length * s + 1e-6)).all()
        kept = (before != MASK) & (canvas != MASK)
        assert torch.equal(canvas[kept], before[kept])


@pytest.mark.parametrize("length", [3, 10, 49])
def test_as_many_steps_as_positions_reveal_one_each(length):
    canvas = PROCESS.prior(length, CounterNoise([0]))
    for index, s in enumerate(time_grid(length)[1:]):
        before = canvas
        canvas = SAMPLER.step(
            canvas, Prediction(random_log_p(1, length, seed=index)), times(s, 1), Picker(), noise_of(index, 1)
        )
        assert int(SAMPLER.decided(before, canvas).sum()) == 1


ANY_SAMPLING = st.sampled_from([*SAMPLINGS, *SOONER])
LEVELS = st.lists(st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.8, 1.0]), min_size=3, max_size=3)


@given(sampling=ANY_SAMPLING, remask=st.sampled_from([0.0, 0.3, 0.9]), s=LEVELS, seed=st.integers(0, 1000))
def test_every_row_reveals_drawn_tokens_and_leaves_no_more_than_its_own_share_hidden(sampling, remask, s, seed):
    one = sampler(PROCESS, replace(sampling, remask=remask))
    generator = torch.Generator().manual_seed(seed)
    before = torch.randint(TEXT + 1, (3, 10), generator=generator)
    log_p = random_log_p(3, 10, seed)
    after = one.step(before, Prediction(log_p), times(s, 3), GREEDY, noise_of(seed, 3))
    assert ((after == MASK).sum(-1) <= (10 * torch.tensor(s)).floor()).all()
    decided = one.decided(before, after)
    assert torch.equal(decided, (before == MASK) & (after != MASK))
    assert torch.equal(after[decided], log_p.argmax(-1)[decided])
    taken_back = (before != MASK) & (after == MASK)
    assert remask > 0 or not taken_back.any()
    rest = ~decided & ~taken_back
    assert torch.equal(after[rest], before[rest])


@pytest.mark.parametrize("sampling", SAMPLINGS[1:3], ids=str)
def test_one_position_at_least_is_revealed_though_the_time_does_not_ask_for_it(sampling):
    log_p = torch.full((4, 6, TEXT + 1), 1 / TEXT).log()
    log_p[..., MASK] = -math.inf
    canvas = torch.full((4, 6), MASK)
    after = sampler(PROCESS, sampling).step(canvas, Prediction(log_p), times(1.0, 4), Picker(), CounterNoise(range(4)))
    assert (SAMPLER.decided(canvas, after).sum(-1) == 1).all()


def test_the_surest_positions_are_unmasked_first():
    p = of_probabilities([0.4, 0.3, 0.3], [0.9, 0.05, 0.05], [0.5, 0.5, 0], [0, 1, 0])
    canvas = torch.tensor([[MASK, MASK, MASK, 2]])
    for level, expected in ((0.5, [MASK, 0, MASK, 2]), (0.25, [MASK, 0, 0, 2]), (0.0, [0, 0, 0, 2])):
        made = SAMPLER.step(canvas, Prediction(p), times(level, 1), GREEDY, CounterNoise([0]))
        assert made.tolist() == [expected]


@pytest.mark.parametrize(
    ("sampling", "revealed"),
    [
        (Choice("top-k"), {0, 1}),
        (Choice("top-k", 1), {0, 1}),
        (Choice("top-k", 3), {0, 1, 2}),
        (Choice("top-k", 9), {0, 1, 2, 3, 4}),
        (Choice("threshold"), {0, 1}),
        (Choice("threshold", 0.97), {0, 1}),
        (Choice("threshold", 0.69), {0, 1, 3}),
        (Choice("threshold", 0.6), {0, 1, 2, 3}),
        (Choice("entropy-bound", 0.1), {0, 1}),
        (Choice("entropy-bound", 0.48), {0, 1}),
        (Choice("entropy-bound", 0.49), {0, 1, 2}),
        (Choice("entropy-bound", 1.13), {0, 1, 2}),
        (Choice("entropy-bound", 1.14), {0, 1, 2, 3}),
        (Choice("entropy-bound", 1.96), {0, 1, 2, 3, 4}),
    ],
    ids=str,
)
def test_a_step_reveals_what_its_rule_says_and_what_the_time_asks_for(sampling, revealed):
    """Of six positions the last is known, and the time leaves three hidden; entropies: 0.11, 0.38, 0.65, 0.82, 0.93."""
    p = of_probabilities([0.98, 0.01, 0.01], [0.9, 0.08, 0.02], [0.65, 0.35, 0], [0.7, 0.15, 0.15], [0.55, 0.35, 0.1])
    p = torch.cat([p, of_probabilities([0, 1, 0])], dim=1)
    canvas = torch.tensor([[MASK] * 5 + [2]])
    after = sampler(PROCESS, sampling).step(canvas, Prediction(p), times(0.5, 1), GREEDY, CounterNoise([0]))
    assert set((after != MASK).nonzero()[:, 1].tolist()) == revealed | {5}


@pytest.mark.parametrize(
    ("sampling", "levels"),
    [
        (Choice(), (2 / 3, 1 / 3, 0)),
        (Choice("ancestral"), (2 / 3, 1 / 3, 0)),
        (Choice("top-k", 1), (1, 1, 0)),
        (Choice("threshold", 1.0), (1, 1, 0)),
        (Choice("entropy-bound", 0.0), (1, 1, 0)),
    ],
    ids=str,
)
def test_one_position_a_step_samples_the_joint_distribution(sampling, levels):
    """Positions that could be no other token may go together: nothing is drawn there."""
    joint = correlated_joint()
    one = sampler(PROCESS, sampling)
    assert drawn_from(counted(PROCESS, denoised(one, joint, levels, count=30_000)), joint)


@pytest.mark.parametrize("sampling", [Choice(), Choice("top-k", 3), Choice("entropy-bound", 9.0)], ids=str)
def test_all_positions_in_one_step_sample_the_marginals_only(sampling):
    joint = correlated_joint()
    one = sampler(PROCESS, sampling)
    observed = counted(PROCESS, denoised(one, joint, [0.0], count=30_000))
    cube = joint.view(TEXT, TEXT, TEXT)
    product = torch.einsum("a,b,c->abc", *(cube.sum(axes) for axes in ((1, 2), (0, 2), (0, 1)))).reshape(-1)
    assert drawn_from(observed, product)
    assert chi_square(observed, joint) > 1000


def test_ancestral_sampling_reveals_in_every_order_equally_often():
    rows, length = 24_000, 4
    one = sampler(PROCESS, Choice("ancestral"))
    uneven = of_probabilities([0.9, 0.1, 0], [0.4, 0.3, 0.3], [1, 0, 0], [0.5, 0.5, 0]).expand(rows, -1, -1)
    canvas = PROCESS.prior(length, CounterNoise(range(rows)))
    when = torch.zeros(rows, length, dtype=torch.int64)
    for index, s in enumerate(time_grid(length)[1:]):
        after = one.step(canvas, Prediction(uneven), times(s, rows), Picker(), noise_of(index, rows))
        when += index * one.decided(canvas, after)
        canvas = after
    orders = list(itertools.permutations(range(length)))
    counts = torch.stack([(when == torch.tensor(order)).all(-1).sum() for order in orders]).double()
    assert drawn_from(counts, torch.full((len(orders),), 1 / len(orders), dtype=torch.float64))


@pytest.mark.parametrize("remask", [0.1, 0.5, 0.9])
def test_each_known_token_is_taken_back_with_the_probability_of_remasking(remask):
    tokens = torch.zeros(2000, 10, dtype=torch.int64)
    one = sampler(PROCESS, Choice(remask=remask))
    again = one.step(tokens, Prediction(random_log_p(2000, 10)), times(1.0, 2000), Picker(), noise_of(0, 2000)) == MASK
    slack = 4 * math.sqrt(remask * (1 - remask) / 2000)
    assert ((again.double().mean(0) - remask).abs() < slack).all()
    both = again[:, 0] & again[:, 1]
    assert abs(float(both.double().mean()) - remask**2) < 4 * math.sqrt(remask**2 * (1 - remask**2) / 2000)


def test_where_the_time_has_no_room_for_all_of_them_any_may_be_taken_back():
    tokens = torch.zeros(6000, 4, dtype=torch.int64)
    one = sampler(PROCESS, Choice(remask=0.999))
    again = one.step(tokens, Prediction(random_log_p(6000, 4)), times(0.3, 6000), Picker(), noise_of(0, 6000)) == MASK
    counts = torch.bincount(again.int().argmax(-1)[again.any(-1)], minlength=4).double()
    assert again.sum(-1).max() == 1
    assert drawn_from(counts, torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("remask", [0.0, 0.3, 0.9])
def test_remasking_leaves_the_distribution_at_every_level_as_it_was(remask):
    """Independent tokens: at each level any positions are hidden, equally likely, and the others are right."""
    joint, count = independent_joint(), 20_000
    one = sampler(PROCESS, Choice("ancestral", remask=remask))
    cube = joint.view(TEXT, TEXT, TEXT)
    canvas = PROCESS.prior(LENGTH, CounterNoise(range(count)))
    for index, level in enumerate((2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 0)):
        log_p = exact_log_p(canvas, joint)
        canvas = one.step(canvas, Prediction(log_p), times(level, count), Picker(), noise_of(index, count))
        expected = torch.zeros(TEXT + 1, TEXT + 1, TEXT + 1, dtype=torch.float64)
        for places in itertools.combinations(range(LENGTH), round(level * LENGTH)):
            visible = tuple(MASK if place in places else slice(TEXT) for place in range(LENGTH))
            expected[visible] += cube.sum(places) if places else cube
        observed = torch.bincount(canvas_code(canvas), minlength=len(CANVASES)).double()
        assert drawn_from(observed, expected.reshape(-1) / expected.sum())


def test_remasking_corrects_what_was_drawn_at_once():
    """Held at one level, it is a Gibbs sampler: it forgets that two tokens were drawn without heed of each other."""
    joint = correlated_joint()
    levels = [1 / 3] * 20 + [0]
    made = {
        remask: counted(PROCESS, denoised(sampler(PROCESS, Choice("ancestral", remask=remask)), joint, levels, 8000))
        for remask in (0.0, 0.8)
    }
    assert chi_square(made[0.0], joint) > 1000
    assert drawn_from(made[0.8], joint)


def test_a_row_without_masks_is_finished_unless_it_remasks():
    canvas = torch.tensor([[0, 1, 2], [0, MASK, 2]])
    assert SAMPLER.finished(canvas).tolist() == [True, False]
    assert sampler(PROCESS, Choice(remask=0.1)).finished(canvas).tolist() == [False, False]


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        (
            Choice("gibbs"),
            "the masked process has no sampler 'gibbs': choose from top-k, threshold, entropy-bound, ancestral",
        ),
        (Choice("top-k", 1.5), "a whole number of at least 0, not 1.5"),
        (Choice("top-k", -1), "a whole number of at least 0, not -1"),
        (Choice("top-k", math.nan), "a whole number of at least 0, not nan"),
        (Choice("threshold", 0.0), "above 0 and at most 1, not 0.0"),
        (Choice("threshold", 1.1), "above 0 and at most 1, not 1.1"),
        (Choice("entropy-bound", -0.1), "at least 0, not -0.1"),
        (Choice("entropy-bound", math.inf), "at least 0, not inf"),
        (Choice("ancestral", 2), "takes no number \\(got 2\\)"),
        (Choice(remask=1.0), "at least 0 and below 1, not 1.0"),
        (Choice(remask=-0.1), "at least 0 and below 1, not -0.1"),
    ],
    ids=str,
)
def test_what_no_sampling_can_be_is_refused(sampling, complaint):
    with pytest.raises(ValueError, match=complaint):
        sampler(PROCESS, sampling)


def test_the_default_is_the_first_of_the_samplers():
    assert sampler(PROCESS) == sampler(PROCESS, Choice("top-k")) == sampler(PROCESS, Choice("top-k", 0)) == SAMPLER
    assert sampler(PROCESS, Choice("threshold")) != SAMPLER


@pytest.mark.parametrize("source", [CounterNoise, GeneratorNoise])
def test_the_weighted_loss_of_the_exact_denoiser_is_the_entropy(source):
    """The NELBO's bound is tight for exact conditionals: E_t[(1/t) sum over masked of CE] = H(x0)."""
    joint = correlated_joint()
    count = 40_000
    generator = torch.Generator().manual_seed(2)
    tokens = OUTCOMES[torch.multinomial(joint, count, replacement=True, generator=generator)]
    t = ((torch.arange(count) + 0.5) / count)[:, None].expand(-1, LENGTH)
    canvas = PROCESS.corrupt(tokens, t, source(range(count)))
    log_p = exact_log_p(canvas, joint)
    losses = -log_p.gather(-1, tokens[..., None]).squeeze(-1)
    total = (PROCESS.loss_weights(canvas, t) * losses).double().sum(-1)
    entropy = -(joint[joint > 0] * joint[joint > 0].log()).sum()
    assert abs(float(total.mean() - entropy)) < 4 * float(total.std()) / math.sqrt(count)
    assert float(total.std()) / math.sqrt(count) < 0.05 * entropy


def test_only_hidden_positions_count_and_low_levels_are_bounded():
    canvas = torch.tensor([[0, MASK, MASK, MASK]])
    t = torch.tensor([[0.5, 0.5, 0.25, 1e-9]])
    torch.testing.assert_close(PROCESS.loss_weights(canvas, t), torch.tensor([[0.0, 2.0, 4.0, 1000.0]]))


def test_known_tokens_are_certain_and_hidden_ones_are_as_predicted():
    canvas = torch.tensor([[0, MASK, 2]])
    log_p = torch.log_softmax(torch.arange(12.0).view(1, 3, 4) % 5, dim=-1)
    log_p[..., 2] = -math.inf
    carried = PROCESS.carry_over(canvas, log_p)
    assert torch.equal(carried[0, 1], log_p[0, 1])
    assert carried[0, [0, 2]].exp().tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
