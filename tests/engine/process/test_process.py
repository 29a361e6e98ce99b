from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise, fold
from ssdcli.engine.process import make_process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.sampling.acceptance import Published
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from tests.engine.process.toys import noise_of, sampler, times

V = 60
MADE = [
    Masked(V, mask_id=3),
    Masked(V, mask_id=V - 1, t_min=0.01),
    Simplex(V),
    Simplex(V, K=3.5, s=0.008, published={"steps": 100}),
    Uniform(V),
    Uniform(V, timed=False, published=vars(Published(0.8, 0.4, bound=0.3, sure=0.01, stable=2, steps=9))),
]
ALL = [*MADE, SparseSimplex(V, top=8, scattered=16)]
SAMPLERS = [sampler(process, Choice(one.name)) for process in ALL for one in catalogue.samplers(process.name)]
SAMPLERS += [sampler(Masked(V, mask_id=3), Choice("ancestral", remask=0.4))]
PROCESSES = pytest.mark.parametrize("process", ALL, ids=str)
EACH_SAMPLER = pytest.mark.parametrize("one", SAMPLERS, ids=str)


class Table:
    """An embedding space with one vector a token."""

    def __init__(self) -> None:
        self.vectors = torch.randn(V, 5, generator=torch.Generator().manual_seed(0))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.vectors[tokens]

    def embed_mixture(self, p: torch.Tensor) -> torch.Tensor:
        return p @ self.vectors

    def embed_sparse(self, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        named = (weights[..., None] * self.vectors[ids]).sum(-2)
        return named + (1 - weights.sum(-1, keepdim=True)) * self.vectors.mean(0)


def random_log_p(*shape: int, seed: int = 2) -> torch.Tensor:
    """Predictions of any sort: (*shape, V)."""
    return torch.log_softmax(2 * torch.randn(*shape, V, generator=torch.Generator().manual_seed(seed)), dim=-1)


class Counting(CounterNoise):
    """Noise that keeps count of the numbers taken from it."""

    def __init__(self, rows: int) -> None:
        super().__init__(range(rows))
        self.taken: list[tuple[int, ...]] = []

    def uniform(self, *shape: int) -> torch.Tensor:
        self.taken.append(shape)
        return super().uniform(*shape)

    def normal(self, *shape: int) -> torch.Tensor:
        self.taken.append(shape)
        return super().normal(*shape)


@pytest.mark.parametrize("process", MADE, ids=str)
def test_a_process_is_made_again_from_its_name_and_constants(process):
    written = json.loads(json.dumps(dict(process.constants())))
    again = make_process(process.name, process.vocabulary, written)
    assert again == process
    assert type(again) is type(process)


@pytest.mark.parametrize("name", ["simplex", "masked", "uniform"])
def test_a_process_takes_from_many_constants_those_that_are_its_own(name):
    constants = {"K": 4.0, "s": 0.01, "mask_id": 7.0}
    own = make_process(name, V, constants).constants()
    assert {key: own[key] for key in own if key in constants}.items() <= constants.items()
    assert make_process(name, V, own) == make_process(name, V, constants)


def test_an_unknown_process_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"'gaussian'.*simplex, masked, uniform"):
        make_process("gaussian", V, {})


@PROCESSES
def test_an_unknown_sampler_is_refused_with_those_that_are_known(process):
    known = ", ".join(catalogue.names(catalogue.samplers(process.name)))
    with pytest.raises(ValueError, match=f"'guess': choose from {known}"):
        sampler(process, Choice("guess"))


@EACH_SAMPLER
@pytest.mark.parametrize("picker", [Picker(), Picker(0.7, 0.9)], ids=str)
def test_a_row_is_corrupted_and_denoised_as_it_is_alone(one, picker):
    process = one.process
    tokens = torch.arange(24).view(4, 6) % 3
    t = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    log_p = random_log_p(4, 6)
    lower = [0.4, 0.0, 0.7, 0.2]
    prior = process.prior(6, noise_of(0, 4))
    canvas = process.corrupt(tokens, t, noise_of(1, 4))
    stepped = one.step(canvas, Prediction(log_p), times(lower, 4), picker, noise_of(2, 4))
    for row in range(4):
        here = slice(row, row + 1)
        assert torch.equal(process.prior(6, alone(0, row)), prior[here])
        assert torch.equal(process.corrupt(tokens[here], t[here], alone(1, row)), canvas[here])
        single = one.step(canvas[here], Prediction(log_p[here]), times(lower[row], 1), picker, alone(2, row))
        assert torch.equal(single, stepped[here])


def alone(step: int, row: int) -> CounterNoise:
    """The noise that `noise_of` gives one row."""
    return CounterNoise([fold(row, step)])


@EACH_SAMPLER
def test_neither_corruption_nor_a_step_changes_what_it_is_given(one):
    process = one.process
    tokens, t = torch.arange(6)[None] + 4, torch.full((1, 6), 0.7)
    canvas = process.corrupt(tokens, t, CounterNoise([1]))
    log_p = random_log_p(1, 6)
    before = canvas.clone(), log_p.clone()
    one.step(canvas, Prediction(log_p), times(0.2, 1), Picker(), CounterNoise([2]))
    assert torch.equal(tokens, torch.arange(6)[None] + 4)
    assert torch.equal(t, torch.full((1, 6), 0.7))
    assert torch.equal(canvas, before[0])
    assert torch.equal(log_p, before[1])


@EACH_SAMPLER
def test_a_step_takes_as_many_numbers_whatever_it_finds(one):
    process = one.process
    taken = set()
    for seed, level in itertools.product(range(3), (0.0, 0.5, 1.0)):
        canvas = process.corrupt(torch.arange(12).view(2, 6), torch.full((2, 6), level), noise_of(seed, 2))
        noise = Counting(2)
        one.step(canvas, Prediction(random_log_p(2, 6, seed=seed)), times(level / 2, 2), Picker(0.8, 0.9), noise)
        taken.add(tuple(noise.taken))
    assert len(taken) == 1


@EACH_SAMPLER
def test_a_clean_canvas_is_left_as_it_is_by_a_prediction_that_agrees_with_it(one):
    process = one.process
    tokens = torch.randint(4, V - 1, (3, 6), generator=torch.Generator().manual_seed(5))
    canvas = process.corrupt(tokens, torch.zeros(3, 6), noise_of(0, 3))
    agreeing = torch.nn.functional.one_hot(tokens, V).float().log()
    for picker in (Picker(), Picker(0.0), Picker(0.7, 0.9)):
        after = one.step(canvas, Prediction(agreeing), times(0.0, 3), picker, noise_of(1, 3))
        assert torch.equal(process.tokens(after), tokens)


@EACH_SAMPLER
def test_the_last_step_takes_the_drawn_tokens_and_decides_those_that_are_new(one):
    process = one.process
    canvas = process.prior(6, noise_of(0, 3))
    log_p = random_log_p(3, 6)
    log_p[..., [3, V - 1]] = -math.inf
    after = one.step(canvas, Prediction(log_p), times(0.0, 3), Picker(0.0), noise_of(1, 3))
    assert torch.equal(process.tokens(after), log_p.argmax(-1))
    changed = process.tokens(canvas) != process.tokens(after)
    assert one.decided(canvas, after)[changed].all()


@PROCESSES
def test_a_clean_canvas_is_embedded_as_its_tokens(process):
    tokens = torch.arange(4, 10)[None]
    canvas = process.corrupt(tokens, torch.zeros(1, 6), CounterNoise([1]))
    space = Table()
    left_to_others = 5 * V * math.exp(-2 * process.K) if isinstance(process, Simplex) else 0.0
    torch.testing.assert_close(process.embed(canvas, space), space.embed(tokens), rtol=0, atol=left_to_others)


def test_a_noised_simplex_canvas_is_embedded_as_a_mixture():
    process, space = Simplex(V), Table()
    canvas = process.prior(6, CounterNoise([1]))
    expected = torch.einsum("blv,vh->blh", canvas.softmax(-1), space.vectors)
    torch.testing.assert_close(process.embed(canvas, space), expected)


def test_masks_are_embedded_by_their_own_vector():
    process, space = Masked(V, mask_id=3), Table()
    canvas = process.prior(6, CounterNoise([1]))
    assert torch.equal(process.embed(canvas, space), space.vectors[3].expand(1, 6, -1))


def test_uniform_noise_is_embedded_as_if_it_were_text():
    process, space = Uniform(V), Table()
    canvas = process.prior(6, CounterNoise([1]))
    assert (canvas < 0).all()
    assert torch.equal(process.embed(canvas, space), process.embed(process.tokens(canvas), space))
    assert torch.equal(process.embed(canvas, space), space.vectors[process.tokens(canvas)])
