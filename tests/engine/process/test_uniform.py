from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.sampler import time_grid
from ssdcli.engine.sampling.acceptance import Acceptance, Published
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from tests.engine.process.toys import (
    GREEDY,
    counted,
    drawn_from,
    independent_joint,
    marginals,
    noise_of,
    sampler,
    times,
)

V = 50
PROCESS = Uniform(V)
UNTOLD = Uniform(V, timed=False, published=vars(Published(bound=0.09)))
SAMPLER = sampler(PROCESS)


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def of_entropies(*entropies: float) -> Tensor:
    """Predictions of two tokens whose entropies are these, in nats, for one row: (1, L, V)."""
    log_p = torch.full((1, len(entropies), V), -math.inf)
    for place, entropy in enumerate(entropies):
        low, high = 0.5, 1.0
        for _ in range(60):
            p = (low + high) / 2
            above = -sum(q * math.log(q) for q in (p, 1 - p) if q > 0) > entropy
            low, high = (p, high) if above else (low, p)
        log_p[0, place, :2] = torch.tensor([high, 1 - high]).log()
    return log_p


def accepted(one: Acceptance, log_p: Tensor, picker: Picker = GREEDY, s: float = 1.0) -> list[list[bool]]:
    canvas = one.process.prior(log_p.shape[1], CounterNoise(range(len(log_p))))
    after = one.step(canvas, Prediction(log_p), times(s, len(log_p)), picker, noise_of(1, len(log_p)))
    return (after >= 0).tolist()


def test_the_prior_is_any_token_equally_often():
    tokens = PROCESS.tokens(PROCESS.prior(500, CounterNoise(range(100))))
    assert drawn_from(torch.bincount(tokens.flatten(), minlength=V).double(), even(V))


@pytest.mark.parametrize("vocabulary", [1, 2, 126_464, 262_144])
def test_noise_stays_within_the_vocabulary_and_reaches_both_its_ends(vocabulary):
    process = Uniform(vocabulary)
    tokens = process.tokens(process.prior(200_000, CounterNoise([7])))
    assert 0 <= tokens.min() <= vocabulary / 1000
    assert vocabulary * 0.999 - 1 <= tokens.max() < vocabulary


class Edges:
    """Noise that draws the least and the largest number there are."""

    def uniform(self, *shape: int) -> Tensor:
        return torch.tensor([2**-24, 1 - 2**-24]).expand(1, 2)


@pytest.mark.parametrize("vocabulary", [1, 3, 65_537, 131_073, 262_144, 1 << 28])
def test_the_largest_number_still_names_a_token(vocabulary):
    process = Uniform(vocabulary)
    least, largest = process.tokens(process.prior(2, Edges()))[0].tolist()
    assert (least, largest) == (vocabulary >> 24, math.floor(vocabulary * (1 - 2**-24)))


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.93, 1.0])
def test_a_share_t_of_the_tokens_is_replaced_by_any_token_and_the_rest_is_as_it_was(t):
    tokens = torch.randint(V, (50, 1000), generator=torch.Generator().manual_seed(1))
    canvas = PROCESS.corrupt(tokens, torch.full(tokens.shape, t), CounterNoise(range(50)))
    noise = canvas < 0
    assert abs(float(noise.double().mean()) - t) <= 4 * math.sqrt(t * (1 - t) / tokens.numel())
    assert torch.equal(canvas[~noise], tokens[~noise])
    if t > 0:
        shift = (PROCESS.tokens(canvas) - tokens)[noise] % V  # whatever the token was
        assert drawn_from(torch.bincount(shift, minlength=V).double(), even(V))


def test_each_position_has_its_own_level():
    t = torch.tensor([[0.0, 1.0] * 20])
    canvas = PROCESS.corrupt(torch.zeros(1, 40, dtype=torch.int64), t, CounterNoise([3]))
    assert torch.equal(canvas < 0, t == 1)


def test_every_position_counts_the_same():
    canvas = PROCESS.corrupt(torch.zeros(2, 3, dtype=torch.int64), torch.rand(2, 3), CounterNoise([1, 2]))
    assert torch.equal(PROCESS.loss_weights(canvas, torch.rand(2, 3)), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        (0.0, [False, True, False, False]),
        (0.09, [False, True, False, False]),
        (0.11, [True, True, False, False]),
        (0.39, [True, True, False, False]),
        (0.41, [True, True, False, True]),
        (0.91, [True, True, True, True]),
    ],
)
def test_the_surest_positions_are_accepted_as_far_as_the_bound_goes(bound, expected):
    one = sampler(PROCESS, Choice("entropy-bound", bound))
    assert accepted(one, of_entropies(0.3, 0.1, 0.6, 0.5)) == [expected]


def test_one_position_is_accepted_however_unsure_all_are():
    assert accepted(SAMPLER, torch.full((2, 5, V), 1 / V).log()) == [[True, False, False, False, False]] * 2


@pytest.mark.parametrize(
    ("s", "expected"),
    [
        (0.76, [False, True, False, False]),
        (0.5, [True, True, False, False]),
        (0.26, [True, True, False, True]),
        (0.25, [True, True, False, True]),
        (0.0, [True, True, True, True]),
    ],
)
def test_no_more_than_the_share_of_the_level_stays_noise(s, expected):
    one = sampler(PROCESS, Choice(number=0.0))
    assert accepted(one, of_entropies(0.3, 0.1, 0.6, 0.5), s=s) == [expected]


@pytest.mark.parametrize("s", [0.99, 0.5, 1 / 48])
def test_where_no_level_is_told_the_bound_alone_decides_until_the_last_step(s):
    log_p = of_entropies(0.3, 0.1, 0.6, 0.5)
    assert accepted(sampler(UNTOLD), log_p, s=s) == [[False, True, False, False]]
    assert accepted(sampler(UNTOLD), log_p, s=0.0) == [[True] * 4]


def test_where_no_level_is_told_rows_at_the_end_take_the_likeliest_tokens_and_the_others_drawn_ones():
    rows = 400
    log_p = torch.tensor([0.6, 0.4]).log().expand(rows, 1, 2)
    s = [0.0, 0.9] * (rows // 2)
    after = sampler(replace(UNTOLD, vocabulary=2)).step(
        torch.zeros(rows, 1), Prediction(log_p), times(s, rows), Picker(), noise_of(1, rows)
    )
    assert (after[::2] == 0).all()
    assert abs(float((after[1::2] == 1).double().mean()) - 0.4) < 5 * math.sqrt(0.24 / (rows // 2))


def test_positions_that_are_certain_are_all_accepted():
    log_p = torch.cat([of_entropies(*[0.0] * 6), of_entropies(0.5, 0.6)], dim=1)
    assert accepted(sampler(PROCESS, Choice(number=0.0)), log_p) == [[True] * 7 + [False]]


def test_doubt_is_that_of_the_distribution_that_tokens_are_drawn_from():
    log_p = of_entropies(0.3, 0.3, 0.3)
    assert accepted(SAMPLER, log_p, Picker()) == [[True, False, False]]
    assert accepted(SAMPLER, log_p, Picker(temperature=0.3)) == [[True, True, True]]
    assert accepted(SAMPLER, log_p, Picker(temperature=3.0)) == [[True, False, False]]


def test_accepted_positions_take_the_drawn_token_and_the_others_fresh_noise():
    rows = 20_000
    canvas = PROCESS.corrupt(torch.full((rows, 3), 7), torch.full((rows, 3), 0.5), noise_of(0, rows))
    log_p = of_entropies(0.4, 0.6, 0.69).expand(rows, -1, -1)
    after = SAMPLER.step(canvas, Prediction(log_p), times(1.0, rows), Picker(), noise_of(1, rows))
    assert (after >= 0).all(0).tolist() == [True, False, False]
    expected = log_p[0, 0].exp().double()
    assert drawn_from(torch.bincount(after[:, 0], minlength=V).double(), expected / expected.sum())
    noise = PROCESS.tokens(after)
    assert not (after >= 0)[:, 1:].any()
    for place in (1, 2):
        assert drawn_from(torch.bincount(noise[:, place], minlength=V).double(), even(V))
        assert abs(float((noise[:, place] == PROCESS.tokens(canvas)[:, place]).double().mean()) - 1 / V) < 0.004


def test_rows_that_reach_zero_take_the_drawn_tokens_everywhere_and_the_others_go_on():
    log_p = torch.full((3, 4, V), 1 / V).log()
    log_p[..., 9] += 1e-3
    canvas = PROCESS.prior(4, CounterNoise([1, 2, 3]))
    after = SAMPLER.step(canvas, Prediction(log_p.log_softmax(-1)), times([0.0, 0.99, 0.0], 3), GREEDY, noise_of(1, 3))
    assert (after[[0, 2]] == 9).all()
    assert (after >= 0).sum(-1).tolist() == [4, 1, 4]


def test_noise_is_never_decided_and_an_accepted_token_only_where_it_is_new():
    before, after = torch.tensor([[~4, ~4, ~4, 4, 4, 4]]), torch.tensor([[4, 5, ~5, 4, 5, ~5]])
    assert SAMPLER.decided(before, after).tolist() == [[True, True, False, False, True, False]]


def test_no_canvas_shows_that_it_is_finished():
    assert SAMPLER.finished(torch.tensor([[1, 2], [~1, 2]])).tolist() == [False, False]


def exact_log_p(tokens: Tensor, t: float, texts: Tensor, p: Tensor, vocabulary: int = V) -> Tensor:
    """log p(x0 at each position | canvas at level t), by enumeration of the texts (N, L): (B, L, V)."""
    same = (tokens[:, None] == texts).sum(-1).double()
    length = texts.shape[1]
    weights = ((1 - t) + t / vocabulary) ** same * (t / vocabulary) ** (length - same) * p
    onehot = torch.nn.functional.one_hot(texts, vocabulary).double()
    return torch.einsum("bo,olv->blv", weights / weights.sum(-1, keepdim=True), onehot).log().float()


@pytest.mark.parametrize("t", [1.0, 0.7, 0.4])
def test_at_one_level_a_lone_token_comes_to_rest_at_p_times_its_noised_p(t):
    """An accepted token is read as if it might be noise: the exact posterior's chain is reversible, hence p q_t."""
    rows, p = 20_000, torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    process, texts = Uniform(4), torch.arange(4)[:, None]
    posteriors = exact_log_p(texts, t, texts, p, vocabulary=4)
    canvas = process.prior(1, noise_of(0, rows))
    for step in range(1, 20):
        log_p = posteriors[process.tokens(canvas)[:, 0]]
        canvas = sampler(process).step(canvas, Prediction(log_p), times(1.0, rows), Picker(), noise_of(step, rows))
    rest = p * ((1 - t) * p + t / 4)
    assert drawn_from(torch.bincount(canvas[:, 0], minlength=4).double(), rest / rest.sum())


@pytest.mark.parametrize("bound", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("steps", [1, 6])
def test_independent_tokens_are_drawn_as_predicted_where_the_canvas_tells_nothing(bound, steps):
    rows, joint = 10_000, independent_joint()
    process = Uniform(3)
    one = sampler(process, Choice(number=bound))
    log_p = marginals(joint[None]).expand(rows, -1, -1)
    canvas = process.prior(3, noise_of(0, rows))
    for index, s in enumerate(time_grid(steps)[1:]):
        canvas = one.step(canvas, Prediction(log_p), times(s, rows), Picker(), noise_of(1 + index, rows))
    assert drawn_from(counted(process, canvas), joint)


def test_many_steps_with_the_exact_denoiser_write_texts_that_there_are():
    """Pairs of tokens that belong together: one step draws them without heed of each other, many steps do not."""
    rows = 1000
    pairs = torch.randint(V, (3, 3, 2), generator=torch.Generator().manual_seed(3))
    choices = itertools.product(range(3), repeat=3)
    texts = torch.stack([torch.cat([pairs[k, i] for k, i in enumerate(choice)]) for choice in choices])
    share = {}
    for steps in (1, 48):
        canvas = PROCESS.prior(6, noise_of(0, rows))
        for index, (t, s) in enumerate(itertools.pairwise(time_grid(steps))):
            log_p = exact_log_p(PROCESS.tokens(canvas), t, texts, even(27))
            canvas = SAMPLER.step(canvas, Prediction(log_p), times(s, rows), Picker(), noise_of(1 + index, rows))
        written = (PROCESS.tokens(canvas)[:, None] == texts).all(-1)
        share[steps] = float(written.any(-1).double().mean())
    assert share[1] < 0.1
    assert share[48] > 0.99
    assert written.any(0).all()


def test_the_accepted_positions_are_those_of_diffusion_gemma():
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        EntropyBoundSampler,
        EntropyBoundSamplerConfig,
    )

    rows, length = 32, 16
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(rows, length, 1, generator=generator) * 12
    logits = scale * torch.randn(rows, length, V, generator=generator)
    canvas = PROCESS.prior(length, noise_of(0, rows))
    counts = set()
    for bound in (0.01, 0.1, 0.7, 3.0):
        theirs = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), length, V, 48)
        tokens = PROCESS.tokens(canvas)
        theirs.accept_canvas(tokens, tokens, logits / 0.7, 10)
        one = sampler(PROCESS, Choice("entropy-bound", bound))
        after = one.step(canvas, Prediction(logits.log_softmax(-1)), times(1.0, rows), Picker(0.7), noise_of(1, rows))
        assert torch.equal((after >= 0), theirs.accepted_token_mask)
        counts.update((after >= 0).sum(-1).tolist())
    assert len(counts) > 8


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        (Choice("top-k"), "the uniform process has no sampler 'top-k': choose from entropy-bound"),
        (Choice("entropy-bound", -1.0), "at least 0, not -1.0"),
        (Choice(number=math.nan), "at least 0, not nan"),
        (Choice(remask=0.1), "does not support remask"),
    ],
    ids=str,
)
def test_what_no_sampling_can_be_is_refused(sampling, complaint):
    with pytest.raises(ValueError, match=complaint):
        sampler(PROCESS, sampling)


def test_the_bound_is_the_processes_own_unless_one_is_asked_for():
    log_p = of_entropies(0.085, 0.085, 0.5)
    for process, accepts in (
        (PROCESS, 2),
        (UNTOLD, 2),
        (Uniform(V, timed=False, published=vars(Published(bound=0.08))), 1),
    ):
        assert sum(accepted(sampler(process), log_p)[0]) == accepts
        assert sum(accepted(sampler(process, Choice(number=0.2)), log_p)[0]) == 3


def test_a_process_of_models_that_are_told_the_level_has_no_constants():
    assert PROCESS.constants() == {}
    assert UNTOLD.constants()["timed"] == 0
