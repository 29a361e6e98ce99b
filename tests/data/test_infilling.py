from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lib.gaps import GapSettings, choose_gaps
from ssdcli.data.infilling import Gaps, Infilling, draw_gaps, open_gaps
from ssdcli.engine.denoiser import Denoiser, denoise_sequence, reading_order
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import Interrupted, UsageError
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.training.objective import Objective
from tests.benchmarks.test_gaps import both_sides, left_side, measure_gaps
from tests.packed import batch, block_ids, plain
from tests.trainings import run, tiny_settings, write_text

V, MASK, END, SIZE, T = 40, 39, 0, 4, 40
PROCESSES = pytest.mark.parametrize("process", [Masked(V, MASK), Simplex(V)], ids=["masked", "simplex"])


def text(length: int, seed: int = 0) -> list[int]:
    """Tokens without an end of text."""
    return torch.randint(1, V - 1, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def column(*values: int) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def opened(offset: int, first: int, count: int, length: int) -> Packed:
    """One sample of T tokens with a gap of `length` tokens in the `count` blocks from `first`."""
    blocks = block_ids(T, SIZE, torch.tensor([offset]))
    gaps = Gaps(column(first), column(count), column(length))
    return open_gaps(Packed.plain(torch.tensor([text(T)]), blocks), gaps, SIZE, END)


@st.composite
def places(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Any offset, first block, count and length of a gap."""
    count = draw(st.integers(1, 3))
    return (
        draw(st.integers(0, SIZE - 1)),
        draw(st.integers(1, T // SIZE - count - 1)),
        count,
        draw(st.integers(1, count * SIZE)),
    )


def sides(offset: int, first: int, count: int) -> tuple[int, int]:
    """Where a gap begins and ends."""
    return first * SIZE - offset, (first + count) * SIZE - offset


@given(places())
def test_a_sample_with_a_gap_is_a_permutation_of_its_window_with_an_end_behind_the_gaps_text(place):
    offset, first, count, length = place
    start, stop = sides(offset, first, count)
    window, left_over = text(T), count * SIZE - length
    right, fallen_out = window[start + length : T - left_over], window[T - left_over :]
    expected = [*window[: start + length], *[END, *fallen_out[1:]][:left_over], *right]
    assert opened(*place).tokens.tolist() == [expected]
    assert len(right) == T - stop > 0


@given(places())
def test_blocks_are_read_as_when_the_gap_is_filled_and_the_gap_is_read_last(place):
    reading, (start, stop) = opened(*place), sides(*place[:3])
    tokens, blocks = reading.tokens[0].tolist(), reading.blocks[0].tolist()
    order = reading_order(Prompt(tokens[:start], tokens[stop:], stop - start), SIZE)
    known = [*range(start), *range(stop, T)]
    assert order.positions == known
    numbers = {rank: number for number, rank in enumerate(sorted(set(order.ranks)))}
    assert [blocks[place] for place in known] == [numbers[rank] for rank in order.ranks]
    assert blocks[start:stop] == [len(numbers) + number // SIZE for number in range(stop - start)]


@given(places())
def test_all_but_what_follows_the_end_of_the_gaps_text_counts(place):
    start, stop = sides(*place[:3])
    end = start + place[3]
    assert opened(*place).scored.tolist() == [[not end < place < stop for place in range(T)]]


def test_a_sample_without_a_gap_is_read_from_left_to_right():
    left = opened(2, 5, 0, 0)
    assert left.tokens.tolist() == [text(T)]
    assert torch.equal(left.blocks, block_ids(T, SIZE, torch.tensor([2])))
    assert left.scored.all()


@cache
def many(count: int = 20_000, share: float = 1.0, size: int = 16) -> tuple[torch.Tensor, Gaps]:
    blocks = block_ids(16 * size, size, torch.arange(count) % size)
    return blocks, draw_gaps(blocks, size, share, CounterNoise(range(count)))


def near(found: float, expected: float, count: int) -> bool:
    return abs(found - expected) < 4.5 * math.sqrt(expected * (1 - expected) / count) + 1e-9


def test_gaps_of_k_blocks_are_as_frequent_as_one_in_k():
    _, gaps = many()
    for k in (1, 2, 3):
        assert near(float((gaps.count == k).float().mean()), 6 / 11 / k, 20_000)


def test_a_share_of_the_samples_has_a_gap():
    for share in (0.0, 0.3, 1.0):
        _, gaps = many(share=share)
        assert near(float((gaps.count > 0).float().mean()), share, 20_000)
        assert ((gaps.count > 0) == (gaps.text > 0)).all()


def test_gaps_are_anywhere_between_the_first_and_the_last_block():
    blocks, gaps = many()
    last = blocks.amax(1, keepdim=True)
    for count in (1, 2, 3):
        for total in (15, 16):
            chosen = gaps.first[(gaps.count == count) & (last == total)]
            choices = total - count
            found = chosen.bincount(minlength=choices + 1)
            assert len(found) == choices + 1
            assert found[0] == 0
            assert all(near(int(n) / len(chosen), 1 / choices, len(chosen)) for n in found[1:])


def test_half_of_the_gaps_are_full_and_the_lengths_of_the_others_are_log_uniform():
    _, gaps = many()
    for count in (1, 2, 3):
        width = 16 * count
        lengths = gaps.text[gaps.count == count]
        found = lengths.bincount(minlength=width + 1) / len(lengths)
        assert near(float(found[width]), 0.5, len(lengths))
        for n in range(1, width):
            assert near(float(found[n]), 0.5 * math.log((n + 1) / n, width), len(lengths))


@given(st.integers(0, SIZE - 1), st.integers(0, 30))
def test_a_text_that_is_too_short_for_a_gap_has_none(offset, key):
    short = plain(torch.ones(1, 4 * SIZE - offset, dtype=torch.int64), SIZE, offset)
    assert Infilling(1.0, END).open(short, SIZE, CounterNoise([key])) is short
    enough = plain(torch.ones(1, 4 * SIZE - offset + 1, dtype=torch.int64), SIZE, offset)
    assert (Infilling(1.0, END).open(enough, SIZE, CounterNoise([key])).blocks.diff() < 0).any()


def make(process: Process, **changes: Any) -> BlockDiffusionLM:
    """A narrow model with lively random weights."""
    fields: dict[str, Any] = {
        "vocabulary": V,
        "hidden": 32,
        "layers": 2,
        "rank": 32,
        "block_size": SIZE,
        "context": T,
        "timed": process.timed,
        "self_conditioned": process.self_conditioned,
        "suppressed": (MASK,),
    }
    torch.manual_seed(0)
    model = BlockDiffusionLM(BackboneConfig(**{**fields, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    return model


def log_p_of(model: BlockDiffusionLM, process: Process, reading: Packed, canvas: torch.Tensor) -> torch.Tensor:
    """What the one pass of training predicts at t = 0.6."""
    level = torch.full(reading.tokens.shape, 0.6) if process.timed else None
    hidden = denoise_sequence(model, process.embed(canvas, model), reading, level)
    return torch.log_softmax(model.logits(hidden), dim=-1)


@PROCESSES
@torch.no_grad()
def test_training_in_one_pass_predicts_what_filling_the_gap_block_by_block_does(process):
    model = make(process)
    reading, (start, stop) = opened(1, 4, 2, 6), sides(1, 4, 2)
    canvas = process.corrupt(reading.tokens, torch.full((1, T), 0.6), CounterNoise([3]))
    trained = log_p_of(model, process, reading, canvas)
    tokens, denoiser = reading.tokens[0].tolist(), Denoiser(model.eval(), process)
    prefix = denoiser.start([Prompt(tokens[:start], tokens[stop:], stop - start)])
    for begin in range(start, stop, SIZE):
        here = slice(begin, begin + SIZE)
        filled = denoiser.denoise(canvas[:, here], 0.6, None, prefix)
        torch.testing.assert_close(filled, trained[:, here], rtol=1e-4, atol=1e-4)
        prefix = denoiser.commit(reading.tokens[:, here], prefix)


@PROCESSES
def test_the_gap_sees_both_sides_and_is_not_seen_by_them(process):
    model = make(process)
    reading = opened(1, 4, 2, 6)
    blocks = reading.blocks[0]
    start, stop = sides(1, 4, 2)
    canvas = process.corrupt(reading.tokens, torch.full((1, T), 0.6), CounterNoise([3]))
    embedded = process.embed(canvas, model).detach().requires_grad_(True)
    clean = model.embed(reading.tokens).detach().requires_grad_(True)
    model.embed = lambda _: clean  # type: ignore[method-assign]
    hidden = denoise_sequence(model, embedded, reading, None)
    place = torch.arange(T)
    for query in (1, start - 1, start, start + SIZE, stop - 1, stop, T - 1):
        loss = (hidden[0, query] * torch.linspace(-1, 2, hidden.shape[-1])).sum()
        by_noise, by_text = torch.autograd.grad(loss, (embedded, clean), retain_graph=True)
        assert torch.equal(by_noise[0].abs().sum(-1) > 0, blocks == blocks[query])
        if query < start:
            seen = blocks < blocks[query]
        elif query < stop:
            seen = (place < start) | (place >= stop) | ((place >= start) & (blocks < blocks[query]))
        else:
            seen = (place < start) | ((place >= stop) & (blocks < blocks[query]))
        assert torch.equal(by_text[0].abs().sum(-1) > 0, seen)


def test_a_training_with_gaps_can_be_taken_up_again(tmp_path):
    data = write_text(tmp_path / "text.txt")
    with_gaps = tiny_settings(data, gap_share=0.5, checkpoint_seconds=1000.0)
    whole = run(with_gaps, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(with_gaps, tmp_path / "parts", stop_after=2)
    assert run(with_gaps, tmp_path / "parts").state == whole.state
    without = run(tiny_settings(data), tmp_path / "without").state
    assert without["model.safetensors"] != whole.state["model.safetensors"]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(UsageError, match="must be between 0 and 1"):
        tiny_settings("text", gap_share=share)


def cyclic(rows: int, generator: torch.Generator) -> torch.Tensor:
    """Texts (rows, 24) that repeat themselves after ten tokens: what is missing stands ten places to either side."""
    tokens = torch.randint(1, 15, (rows, 10), generator=generator)
    return tokens[:, torch.arange(24) % 10]


def test_a_model_learns_to_fill_a_gap_from_its_right_side():
    process, generator = Masked(16, 15), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    model = make(process, vocabulary=16, hidden=64, rank=64, context=24, suppressed=(15,))
    objective, infilling, steps = Objective(model, process, 0), Infilling(1.0, END), 180
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-2)
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 2.5 * (1 - step / steps), 1))
    for step in range(steps):
        optimizer.zero_grad()
        rows = plain(cyclic(24, generator), SIZE, step % SIZE)
        indices = range(24 * step, 24 * step + 24)
        objective(**batch(infilling.open(rows, SIZE, CounterNoise(indices)), *indices)).backward()
        optimizer.step()
        plan.step()
    settings = GapSettings(SIZE, SIZE, left=2, right=12)
    gaps = choose_gaps([ScoredText([END, *tokens], 1) for tokens in cyclic(150, generator).tolist()], settings)
    losses = measure_gaps(Denoiser(model.eval(), process), gaps, [left_side, both_sides], settings).columns()
    assert losses.loss(0)[0] > math.log(14) - 0.1  # two tokens on the left say nothing
    assert losses.loss(1)[0] < losses.loss(0)[0] - 0.5
