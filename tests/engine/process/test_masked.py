from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.engine.nucleus import Picker
from ssdcli.engine.process import Masked
from ssdcli.engine.sampler import time_grid

TEXT, MASK = 3, 3  # token ids 0, 1, 2 and the mask
PROCESS = Masked(TEXT + 1, mask_id=MASK)
LENGTH = 3
OUTCOMES = torch.tensor(list(itertools.product(range(TEXT), repeat=LENGTH)))
GREEDY = Picker(temperature=0.0)


def correlated_joint() -> Tensor:
    """p of each of the 27 outcomes: the tokens depend on each other, and some outcomes are impossible."""
    torch.manual_seed(0)
    p = torch.rand(len(OUTCOMES), dtype=torch.float64) ** 3
    p[OUTCOMES.sum(1) == 3] = 0
    return p / p.sum()


def exact_log_p(canvas: Tensor, joint: Tensor) -> Tensor:
    """log p(x0 at each position | the known tokens of the canvas), by enumeration: (B, L, V)."""
    fits = ((canvas[:, None] == MASK) | (canvas[:, None] == OUTCOMES)).all(-1)
    posterior = fits * joint
    posterior = posterior / posterior.sum(-1, keepdim=True)
    onehot = torch.nn.functional.one_hot(OUTCOMES, TEXT + 1).double()
    return torch.einsum("bo,olv->blv", posterior, onehot).log().float()


def generate(joint: Tensor, steps: int, count: int) -> Tensor:
    """How often each outcome is made: (27,)."""
    canvas = PROCESS.prior(LENGTH, CounterNoise(range(count)))
    grid = time_grid(steps)
    for index, times in enumerate(itertools.pairwise(grid)):
        noise = CounterNoise([fold(row, index) for row in range(count)])
        canvas = PROCESS.step(canvas, exact_log_p(canvas, joint), times, Picker(), noise)
    code = (PROCESS.tokens(canvas) * torch.tensor([9, 3, 1])).sum(-1)
    return torch.bincount(code, minlength=len(OUTCOMES)).double()


def chi_square(observed: Tensor, p: Tensor) -> float:
    expected = observed.sum() * p
    possible = p > 0
    return float(((observed - expected)[possible] ** 2 / expected[possible]).sum())


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


def test_a_clean_canvas_is_a_fixed_point():
    tokens = torch.tensor([[0, 1, 2, 2, 1, 0]])
    canvas = PROCESS.corrupt(tokens, torch.zeros(1, 6), CounterNoise([0]))
    assert torch.equal(PROCESS.tokens(canvas), tokens)
    torch.manual_seed(0)
    log_p = torch.log_softmax(torch.randn(1, 6, TEXT + 1), dim=-1)
    for times in ((1.0, 0.5), (0.5, 0.0), (1.0, 0.0)):
        assert torch.equal(PROCESS.step(canvas, log_p, times, Picker(), CounterNoise([1])), tokens)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16, 40])
@pytest.mark.parametrize("length", [1, 7, 16])
def test_no_step_leaves_more_hidden_than_its_level_and_the_last_leaves_nothing(steps, length):
    torch.manual_seed(steps)
    canvas = PROCESS.prior(length, CounterNoise([0, 1]))
    grid = time_grid(steps)
    for t, s in itertools.pairwise(grid):
        log_p = torch.randn(2, length, TEXT + 1)
        log_p[..., MASK] = -math.inf
        before = canvas
        canvas = PROCESS.step(canvas, log_p.log_softmax(-1), (t, s), Picker(), CounterNoise([2, 3]))
        assert ((canvas == MASK).sum(-1) == math.floor(length * s + 1e-6)).all()
        assert torch.equal(canvas[before != MASK], before[before != MASK])


def test_the_surest_positions_are_unmasked_first():
    p = torch.tensor([[0.4, 0.3, 0.3, 0], [0.9, 0.05, 0.05, 0], [0.5, 0.5, 0, 0], [0, 1, 0, 0]])
    canvas = torch.tensor([[MASK, MASK, MASK, 2]])
    for level, expected in ((0.5, [MASK, 0, MASK, 2]), (0.25, [MASK, 0, 0, 2]), (0.0, [0, 0, 0, 2])):
        made = PROCESS.step(canvas, p.log()[None], (1.0, level), GREEDY, CounterNoise([0]))
        assert made.tolist() == [expected]


def test_one_position_a_step_samples_the_joint_distribution():
    joint = correlated_joint()
    observed = generate(joint, steps=LENGTH, count=30_000)
    assert observed[joint == 0].sum() == 0
    freedom = int((joint > 0).sum()) - 1
    assert chi_square(observed, joint) < freedom + 4 * math.sqrt(2 * freedom)


def test_all_positions_in_one_step_sample_the_marginals_only():
    joint = correlated_joint()
    observed = generate(joint, steps=1, count=30_000)
    cube, marginal = observed.view(TEXT, TEXT, TEXT), joint.view(TEXT, TEXT, TEXT)
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert chi_square(cube.sum(axes), marginal.sum(axes)) < 2 + 4 * 2
    product = torch.einsum(
        "a,b,c->abc", *(marginal.sum(axes) / marginal.sum() for axes in ((1, 2), (0, 2), (0, 1)))
    ).reshape(-1)
    assert chi_square(observed, product) < 26 + 4 * math.sqrt(52)
    assert chi_square(observed, joint) > 1000


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
