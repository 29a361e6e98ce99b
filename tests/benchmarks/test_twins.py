"""Block diffusion that reads a core, and its twins: laws on toy Llamas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.lib.canvas import ABSENT, BLOCK, Core, Read, Reader, noised
from benchmarks.lib.twins import ReadingMember, TwinMember
from tests.engine.test_causal import denoiser, llama

TEXT = [1, 5, 6, 7, 3, 2, 9, 4]


def member(canvas: bool, *, trained: bool) -> ReadingMember:
    core = Core(denoiser(llama()))
    torch.manual_seed(0)
    network = Reader(core.backbone, canvas)
    if trained:
        nn.init.normal_(network.side.body[-1].weight, std=0.3)
    return ReadingMember(core, network.eval().requires_grad_(False))


@pytest.mark.parametrize("canvas", [False, True])
def test_untrained_a_reader_says_what_the_core_says(canvas):
    small = member(canvas, trained=False)
    assert torch.allclose(small.each(TEXT), small.core.each(TEXT))
    assert torch.allclose(small.next(TEXT), small.each(TEXT)[-1], atol=1e-5)
    assert torch.allclose(small.in_gap(TEXT[:3], TEXT[3:5], TEXT[5:]), small.core.each(TEXT)[2:4])


def test_only_a_canvas_sees_what_is_behind_a_gap():
    for canvas in (False, True):
        small = member(canvas, trained=True)
        near, other = (small.in_gap(TEXT[:3], TEXT[3:5], behind) for behind in ([2, 9, 4], [8, 8, 8]))
        assert torch.equal(near, other) is not canvas
        assert torch.allclose(small.in_gap(TEXT[:3], TEXT[3:5], ()), small.each(TEXT)[2:4], atol=1e-5)


def test_a_block_on_a_grid_sees_its_own_known_tokens_in_the_canvas():
    small = member(True, trained=True)
    grid = ReadingMember(small.core, small.network, grid=True)
    assert torch.allclose(grid.each(TEXT)[0], small.each(TEXT)[0], atol=1e-5)
    changed = [*TEXT[:-1], 8]
    before, after = grid.each(TEXT), grid.each(changed)
    assert torch.allclose(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_a_reader_drafts_what_it_finds_likeliest_behind_the_anchor():
    assert member(False, trained=True).draft(TEXT, 3) == []
    small = member(True, trained=True)
    draft = small.draft(TEXT, 3)
    assert len(draft) == 3
    assert draft[0] == int(small.next(TEXT).argmax())


def test_hidden_tokens_are_predicted_the_leftmost_always():
    torch.manual_seed(0)
    tokens = torch.arange(64 * BLOCK).view(64, BLOCK)
    inside = torch.ones(64, BLOCK, dtype=torch.bool)
    shown, places = noised(tokens, inside, 4)
    hidden = shown == ABSENT
    assert bool(hidden.gather(1, places).all())
    assert torch.equal(places[:, 0], hidden.long().argmax(1))
    assert bool((shown[~hidden] == tokens[~hidden]).all())
    assert bool(hidden[::4].all())  # all of the first kind, from some place on of the second
    assert all(torch.equal(row, row.sort().values) for row in hidden[1::4].long())


def test_states_and_canvases_stay_within_their_note():
    core = Core(denoiser(llama()))
    Reader(core.backbone, canvas=False)
    torch.manual_seed(0)
    read = Read.of(core, [TEXT, [1, 8, 9]], float("inf"))
    anchor = int((read.tokens == 8).nonzero()[0, 0])
    tokens, inside = read.canvases(torch.tensor([anchor]))
    assert tokens[inside].tolist() == [9]
    _, before = read.before(torch.tensor([anchor]))
    assert int(before.sum()) == 2
    assert torch.allclose(read.states[read.first[anchor] : read.last[anchor]].float(), core.states([1, 8, 9]), atol=0.1)


def test_a_twin_drafts_one_by_one():
    twin = TwinMember(denoiser(llama()))
    first, second = twin.draft(TEXT, 2)
    assert first == int(twin.next(TEXT).argmax())
    assert second == int(twin.next([*TEXT, first]).argmax())
