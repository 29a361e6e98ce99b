from __future__ import annotations

import json
import math

import pytest
import torch

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.nucleus import Picker
from ssdcli.engine.process import Masked, Simplex, make_process

V = 20
ALL = [Masked(V, mask_id=3), Masked(V, mask_id=V - 1, t_min=0.01), Simplex(V), Simplex(V, K=3.5, s=0.008)]
PROCESSES = pytest.mark.parametrize("process", ALL, ids=str)


class Table:
    """An embedding space with one vector a token."""

    def __init__(self) -> None:
        self.vectors = torch.randn(V, 5, generator=torch.Generator().manual_seed(0))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.vectors[tokens]

    def embed_mixture(self, p: torch.Tensor) -> torch.Tensor:
        return p @ self.vectors


@PROCESSES
def test_a_process_is_made_again_from_its_name_and_constants(process):
    written = json.loads(json.dumps(dict(process.constants())))
    again = make_process(process.name, process.vocabulary, written)
    assert again == process
    assert type(again) is type(process)


def test_an_unknown_process_is_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match=r"'gaussian'.*simplex, masked"):
        make_process("gaussian", V, {})


@PROCESSES
def test_a_row_is_corrupted_and_denoised_as_it_is_alone(process):
    tokens = torch.arange(24).view(4, 6) % 3
    t = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    log_p = torch.log_softmax(torch.randn(4, 6, V), dim=-1)
    keys = [5, 6, 7, 8]
    prior = process.prior(6, CounterNoise(keys))
    canvas = process.corrupt(tokens, t, CounterNoise(keys))
    stepped = process.step(canvas, log_p, (0.8, 0.4), Picker(), CounterNoise(keys))
    for row, key in enumerate(keys):
        one = slice(row, row + 1)
        assert torch.equal(process.prior(6, CounterNoise([key])), prior[one])
        assert torch.equal(process.corrupt(tokens[one], t[one], CounterNoise([key])), canvas[one])
        single = process.step(canvas[one], log_p[one], (0.8, 0.4), Picker(), CounterNoise([key]))
        assert torch.equal(single, stepped[one])


@PROCESSES
def test_neither_corruption_nor_a_step_changes_what_it_is_given(process):
    tokens, t = torch.arange(6)[None] + 4, torch.full((1, 6), 0.7)
    canvas = process.corrupt(tokens, t, CounterNoise([1]))
    log_p = torch.log_softmax(torch.randn(1, 6, V, generator=torch.Generator().manual_seed(3)), dim=-1)
    before = canvas.clone(), log_p.clone()
    process.step(canvas, log_p, (0.7, 0.2), Picker(), CounterNoise([2]))
    assert torch.equal(tokens, torch.arange(6)[None] + 4)
    assert torch.equal(t, torch.full((1, 6), 0.7))
    assert torch.equal(canvas, before[0])
    assert torch.equal(log_p, before[1])


@PROCESSES
def test_a_clean_canvas_is_embedded_as_its_tokens(process):
    tokens = torch.arange(4, 10)[None]
    canvas = process.corrupt(tokens, torch.zeros(1, 6), CounterNoise([1]))
    space = Table()
    left_to_others = 100 * math.exp(-2 * process.K) if isinstance(process, Simplex) else 0.0
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
