from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.sampler import time_grid
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from tests.engine.process.toys import sampler

V = 3
PROCESS = Simplex(V)
SAMPLER = sampler(PROCESS)
OUTCOMES = torch.tensor(list(itertools.product(range(V), repeat=2)))
LEVELS = [0.0, 0.1, 0.5, 0.9, 1.0]


def exact_log_p(canvas: Tensor, t: float, joint: Tensor) -> Tensor:
    """log p(x0 at each position | x_t) of two tokens, enumerated under the Gaussian likelihood: (B, 2, V)."""
    abar = PROCESS.abar(torch.tensor(t)).double()
    # Every token's clean vector is as long as every other's: only the product with its own logit differs.
    score = 2 * abar.sqrt() * canvas.double() / ((1 - abar) * PROCESS.K)
    likelihood = score[:, 0, OUTCOMES[:, 0]] + score[:, 1, OUTCOMES[:, 1]]
    posterior = torch.softmax(likelihood + joint.reshape(-1).double().log(), dim=-1)
    onehot = torch.nn.functional.one_hot(OUTCOMES, V).double()
    return torch.einsum("bo,olv->blv", posterior, onehot).log().float()


def levels(s: float, rows: int) -> Tensor:
    return torch.full((rows,), s, dtype=torch.float64)


def generate(joint: Tensor, steps: int, count: int) -> Tensor:
    """How often each pair of tokens is made: (V, V)."""
    canvas = PROCESS.prior(2, CounterNoise([fold(row, 1 << 32) for row in range(count)]))
    grid = time_grid(steps)
    for index, (t, lower) in enumerate(itertools.pairwise(grid)):
        noise = CounterNoise([fold(row, index) for row in range(count)])
        canvas = SAMPLER.step(
            canvas, Prediction(exact_log_p(canvas, t, joint)), (t, levels(lower, count)), Picker(), noise
        )
    tokens = PROCESS.tokens(canvas)
    return torch.bincount(tokens[:, 0] * V + tokens[:, 1], minlength=V * V).double().view(V, V)


def chi_square(observed: Tensor, p: Tensor) -> float:
    expected = observed.sum() * p
    return float(((observed - expected) ** 2 / expected).sum())


def test_the_signal_is_whole_at_zero_gone_at_one_and_falls_between():
    abar = PROCESS.abar(torch.linspace(0, 1, 1001))
    assert float(abar[0]) == pytest.approx(1, abs=1e-6)
    assert float(abar[-1]) == pytest.approx(0, abs=1e-6)
    assert (abar.diff() < 0).all()
    assert abar.min() >= 0
    assert abar.max() <= 1


@pytest.mark.parametrize("t", LEVELS[1:-1])
def test_the_signal_is_the_cosine_of_the_paper(t):
    def squared_cosine(time: float) -> float:
        return math.cos((time + 1e-4) / (1 + 1e-4) * math.pi / 2) ** 2

    assert float(PROCESS.abar(torch.tensor(t))) == pytest.approx(squared_cosine(t) / squared_cosine(0), rel=1e-5)


@pytest.mark.parametrize("source", [CounterNoise, GeneratorNoise])
@pytest.mark.parametrize("t", LEVELS)
@pytest.mark.parametrize("K", [1.0, 5.0])
def test_the_marginal_is_the_scaled_token_and_gaussian_noise(source, t, K):
    process, rows, vocabulary = Simplex(40, K=K), 50, 40
    tokens = torch.randint(vocabulary, (rows, 30), generator=torch.Generator().manual_seed(1))
    x = process.corrupt(tokens, torch.full(tokens.shape, t), source(range(rows)))
    assert x.shape == (rows, 30, vocabulary)
    assert x.dtype == torch.float32
    abar = float(process.abar(torch.tensor(t)))
    clean = K * (2.0 * torch.nn.functional.one_hot(tokens, vocabulary) - 1)
    rest = (x - math.sqrt(abar) * clean).double()
    deviation = K * math.sqrt(1 - abar)
    on_token = torch.nn.functional.one_hot(tokens, vocabulary).bool()
    for part in (rest[on_token], rest[~on_token]):
        n = part.numel()
        assert abs(float(part.mean())) <= 4 * deviation / math.sqrt(n) + 1e-5
        assert abs(float(part.std()) - deviation) <= 4 * deviation / math.sqrt(2 * n) + 1e-5


def test_the_prior_is_what_the_last_level_leaves():
    rows = range(100)
    x = PROCESS.prior(30, CounterNoise(rows))
    assert x.shape == (100, 30, V)
    assert abs(float(x.mean())) < 4 * 5 / math.sqrt(x.numel())
    assert abs(float(x.std()) - 5) < 4 * 5 / math.sqrt(2 * x.numel())
    corrupted = PROCESS.corrupt(torch.ones(100, 30, dtype=torch.int64), torch.ones(100, 30), CounterNoise(rows))
    torch.testing.assert_close(corrupted, x, rtol=0, atol=1e-4)


def test_each_position_has_its_own_level():
    tokens = torch.ones(1, 40, dtype=torch.int64)
    t = torch.tensor([[0.0, 1.0] * 20])
    x = PROCESS.corrupt(tokens, t, CounterNoise([3]))
    torch.testing.assert_close(x[:, ::2], torch.tensor([-5.0, 5.0, -5.0]).expand(1, 20, V), rtol=0, atol=0.05)
    torch.testing.assert_close(x[:, 1::2], PROCESS.prior(40, CounterNoise([3]))[:, 1::2], rtol=0, atol=1e-4)


def test_a_clean_canvas_is_a_fixed_point():
    process = Simplex(500)
    tokens = torch.arange(500)[None]
    canvas = process.corrupt(tokens, torch.zeros(1, 500), CounterNoise([0]))
    assert torch.equal(process.tokens(canvas), tokens)


def test_the_last_step_leaves_the_drawn_tokens():
    torch.manual_seed(0)
    log_p = torch.log_softmax(torch.randn(4, 6, V), dim=-1)
    canvas = PROCESS.prior(6, CounterNoise(range(4)))
    made = SAMPLER.step(canvas, Prediction(log_p), (0.1, levels(0, 4)), Picker(temperature=0.0), CounterNoise(range(4)))
    assert torch.equal(PROCESS.tokens(made), log_p.argmax(-1))


def test_every_position_counts_the_same():
    weights = PROCESS.loss_weights(torch.zeros(2, 3, V), torch.rand(2, 3))
    assert torch.equal(weights, torch.ones(2, 3))


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_independent_tokens_are_sampled_exactly_in_any_number_of_steps(steps):
    joint = torch.outer(torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])).double()
    assert chi_square(generate(joint, steps, count=10_000), joint) < 8 + 4 * 4


def test_dependent_tokens_approach_their_joint_distribution_with_the_number_of_steps():
    """Projecting onto a token a position draws the positions independently given the canvas, as SSD-LM does.

    The first steps therefore make the product of the marginals, and only later ones can agree with others:
    the joint distribution is approached, not met, so its distance is bounded, not tested to sampling error.
    """
    joint = torch.tensor([[0.45, 0.05, 0.0], [0.05, 0.15, 0.05], [0.0, 0.05, 0.2]]).double()
    made = {steps: generate(joint, steps, count=4000) / 4000 for steps in (1, 8, 64)}
    distance = {steps: float((p - joint).abs().sum()) / 2 for steps, p in made.items()}
    assert distance[1] > 0.4
    assert 0.12 > distance[8] > distance[64]
    assert distance[64] < 0.04
    product = torch.outer(joint.sum(1), joint.sum(0))
    assert float((made[1] - product).abs().sum()) / 2 < 0.04
    for p in made.values():
        for axis in (0, 1):
            assert float((p.sum(axis) - joint.sum(axis)).abs().max()) < 0.035


MANY = 200
NUCLEUS = torch.tensor([0.4, 0.3, 0.2] + [0.1 / (MANY - 3)] * (MANY - 3))


def multi_hot_steps(process: Simplex, lower: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """A step from the same prediction everywhere by both projections, with the same noise: two canvases."""
    log_p = NUCLEUS.log().expand(rows, 25, MANY)
    canvas = process.prior(25, CounterNoise(range(rows)))
    both = [sampler(process, Choice(name)) for name in ("nucleus", "multi-hot")]
    made = [
        p.step(canvas, Prediction(log_p), (0.6, lower), Picker(top_p=0.85), CounterNoise(range(rows))) for p in both
    ]
    return made[0], made[1]


def test_multi_hot_raises_the_whole_nucleus_and_noises_it_as_one_token_is():
    process, rows = Simplex(MANY), 200
    nucleus, multi_hot = multi_hot_steps(process, levels(0.5, rows), rows)
    signal = 5 * float(process.abar(torch.tensor(0.5)).sqrt())
    hot = torch.full((MANY,), -signal).index_fill(0, torch.arange(3), signal)
    bound = 4.5 * 5 / math.sqrt(rows * 25)
    torch.testing.assert_close(multi_hot.mean((0, 1)), hot, rtol=0, atol=bound)
    # The noise is the same; nothing but the raised tokens differs.
    clean = multi_hot - nucleus
    assert ((clean.abs() < 1e-4) | ((clean - 2 * signal).abs() < 1e-4)).all()
    assert (clean[..., 3:].abs() < 1e-4).all()
    assert ((clean[..., :3] > 1).sum(-1) == 2).all()


def test_multi_hot_ends_with_one_token_drawn_from_the_nucleus_row_by_row():
    rows = 400
    lower = torch.where(torch.arange(rows) % 2 == 0, levels(0, rows), levels(0.5, rows))
    nucleus, multi_hot = multi_hot_steps(Simplex(MANY), lower, rows)
    assert torch.equal(multi_hot[::2], nucleus[::2])
    assert not torch.isclose(multi_hot[1::2], nucleus[1::2]).all(-1).any()
    observed = torch.bincount(Simplex(MANY).tokens(multi_hot[::2]).flatten(), minlength=MANY).double()
    assert observed[3:].sum() == 0
    assert chi_square(observed[:3], NUCLEUS[:3].double() / 0.9) < 2 + 4 * 2


@pytest.mark.parametrize("process", [Simplex(MANY), SparseSimplex(MANY)], ids=["dense", "sparse"])
def test_a_projection_is_chosen_by_name_and_what_is_unknown_is_refused(process):
    multi_hot = sampler(process, Choice("multi-hot"))
    assert multi_hot != sampler(process)
    assert multi_hot.process == process
    assert sampler(process, Choice("nucleus")) == sampler(process)
    with pytest.raises(ValueError, match=r"'top-k'.*nucleus, multi-hot"):
        sampler(process, Choice("top-k"))
    with pytest.raises(ValueError, match=r"multi-hot takes no number \(got 0.5\)"):
        sampler(process, Choice("multi-hot", 0.5))
    with pytest.raises(ValueError, match=r"nucleus takes no number \(got 2\)"):
        sampler(process, Choice(number=2))
    with pytest.raises(ValueError, match="does not support remask"):
        sampler(process, Choice("nucleus", remask=0.1))
