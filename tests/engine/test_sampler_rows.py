from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.stopping import EarlyStop
from ssdcli.engine.steps import Step
from tests.engine.samples import PROCESSES, REAL_PROCESSES, REDRAWN, L, P, V, generated, run


class Ender:
    """Writes token 1 everywhere, and END throughout the block that a row's prompt names; notes what is committed."""

    END = 2

    def __init__(self) -> None:
        self.committed: list[Tensor] = []

    def start(self, prompts: Any) -> tuple[Tensor, int]:
        return torch.tensor([prompt.before[0] for prompt in prompts]), 0

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: tuple[Tensor, int]) -> Tensor:
        ends_in, block = prefix
        token = torch.where(ends_in == block, self.END, 1)
        p = torch.nn.functional.one_hot(token, V).float()
        return p.log()[:, None].expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: tuple[Tensor, int]) -> tuple[Tensor, int]:
        self.committed.append(tokens)
        return prefix[0], prefix[1] + 1


@PROCESSES
@pytest.mark.parametrize(("ends", "blocks"), [([0], 1), ([3], 4), ([2, 0, 4], 5), ([9], 6), ([1, 9], 6)])
def test_writing_stops_after_the_block_in_which_the_last_row_ended(process, ends, blocks):
    prompts = [[end] for end in ends]
    changes: dict[str, Any] = {"max_tokens": 6 * L, "steps": 2, "ends": (Ender.END,)}
    steps = run(Ender(), process, list(range(len(ends))), prompts, **changes)
    assert {step.block for step in steps} == set(range(blocks))
    tokens = generated(steps, process).view(len(ends), blocks, L)
    for row, end in enumerate(ends):
        written = tokens[row, : end + 1]
        assert [bool((block == Ender.END).all()) for block in written] == [b == end for b in range(len(written))]


@PROCESSES
def test_a_row_that_ended_takes_no_more_steps_and_is_filled_up_with_ends(process):
    ender, ends = Ender(), [1, 3]
    steps = run(ender, process, [0, 1], [[end] for end in ends], max_tokens=6 * L, steps=2, ends=(Ender.END,))
    assert [step.active.tolist() for step in steps] == [[step.block <= end for end in ends] for step in steps]
    assert all(not step.decided[~step.active].any() for step in steps)
    committed = torch.stack(ender.committed)
    assert (committed[1:, 0] == Ender.END).all()
    assert (committed[:, 1] == 1).all()
    assert (committed[0, 0] == 1).all()


@PROCESSES
def test_any_of_several_ends_ends_a_row_and_the_first_fills_it_up(process):
    ender = Ender()
    steps = run(ender, process, [0, 1], [[1], [3]], max_tokens=6 * L, steps=2, ends=(3, Ender.END))
    assert {step.block for step in steps} == {0, 1, 2, 3}
    committed = torch.stack(ender.committed)
    assert (committed[1, 0] == Ender.END).all()
    assert (committed[2:, 0] == 3).all()


class Settler:
    """Says P until the noise level is down to a row's own (its prompt's token, in tenths), then is sure of token 4."""

    SURE = 0.99  # an entropy of 0.07 nats

    def start(self, prompts: Any) -> Tensor:
        return torch.tensor([(prompt.before[0] + 0.5) / 10 for prompt in prompts])

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Tensor) -> Tensor:
        sure = torch.tensor([(1 - self.SURE) / (V - 2)] * 4 + [self.SURE, 0.0])
        p = torch.where((t <= prefix)[:, None], sure, torch.tensor(P))
        return p.log()[:, None].expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        return prefix


def settle(process: Process, levels: list[int], **changes: Any) -> list[Step]:
    """One block in ten steps by rows that settle at these levels, in tenths: row i stops in step 11 - levels[i].

    It has more positions than steps, so that no process is finished before.
    """
    fields: dict[str, Any] = {"block_size": 16, "max_tokens": 16, "steps": 10, "stop": EarlyStop(0.1)}
    prompts, seeds = [[level] for level in levels], [100 + level for level in levels]
    return run(Settler(), process, seeds, prompts, **{**fields, **changes})


@REDRAWN
def test_a_row_takes_no_step_after_the_one_in_which_it_was_stable_and_sure(process):
    levels = [8, 5, 1, 9]
    steps = settle(process, levels)
    assert [step.active.tolist() for step in steps] == [[i <= 11 - level for level in levels] for i in range(10)]
    assert not any(step.decided[~step.active].any() for step in steps)


@REDRAWN
@pytest.mark.parametrize("levels", [[8], [8, 5], [9, 6, 7], [10, 10]])
def test_a_block_ends_with_the_step_in_which_its_last_row_stops_and_not_before(process, levels):
    steps = settle(process, levels)
    assert len(steps) == 12 - min(levels)
    assert [step.last for step in steps] == [False] * (len(steps) - 1) + [True]
    assert len(settle(process, levels, stop=None)) == 10


def test_a_row_takes_no_step_after_the_one_that_left_its_process_nothing_to_do(known_denoiser):
    """Below a level of 1/4 there is no mask among four positions."""
    steps = run(known_denoiser(P), Masked(V, mask_id=V - 1), [0, 1], steps=10, max_tokens=2 * L)
    assert [step.index for step in steps] == [*range(8)] * 2
    assert [step.last for step in steps] == [*[False] * 7, True] * 2


@PROCESSES
def test_how_sure_a_row_is_depends_on_the_temperature(known_denoiser, process):
    """P has 1.5 nats; at a temperature of 0.05, it has 0.1."""
    lengths = [
        len(run(known_denoiser(P), process, [0, 1], steps=4, max_tokens=L, stop=EarlyStop(0.2), picker=Picker(at)))
        for at in (0.05, 1.0)
    ]
    assert lengths == [2, 4]


@REDRAWN
def test_a_row_that_stopped_is_clean_and_stays_as_it_is(process):
    levels = [8, 5, 1]
    steps = settle(process, levels)
    for row, level in enumerate(levels):
        canvases = [step.canvas[row] for step in steps[min(11 - level, 9) :]]
        assert all(torch.equal(canvas, canvases[0]) for canvas in canvases)
        tokens = process.tokens(steps[-1].canvas)[row : row + 1]
        clean = process.corrupt(tokens, torch.zeros(tokens.shape), CounterNoise([0]))
        assert torch.equal(canvases[0], clean[0])


@PROCESSES
def test_a_row_that_is_done_is_clean_and_stays_as_it_is(process):
    steps = settle(process, [8, 5, 1])
    tokens = process.tokens(steps[-1].canvas)
    clean = process.corrupt(tokens, torch.zeros(tokens.shape), CounterNoise([0, 1, 2]))
    assert not all(step.active.all() for step in steps)
    for step, following in pairwise(steps):
        for row in (~following.active).nonzero().flatten().tolist():
            assert torch.equal(step.canvas[row], clean[row])
            assert torch.equal(following.canvas[row], clean[row])


@PROCESSES
def test_a_row_that_stops_early_writes_what_it_writes_alone(process):
    levels = [8, 5, 1, 9, 3]
    together = settle(process, levels)
    for row, level in enumerate(levels):
        single = settle(process, [level])
        for step, own in zip(together, single, strict=False):
            assert torch.equal(step.canvas[row], own.canvas[0])
        assert torch.equal(together[-1].canvas[row], single[-1].canvas[0])


@PROCESSES
def test_rows_that_stop_early_in_some_blocks_and_end_in_others_write_what_they_write_alone(process):
    changes: dict[str, Any] = {"max_tokens": 8 * L, "ends": (3,), "stop": EarlyStop(0.1), "steps": 4}
    prompts, seeds = [[8], [6], [0], [3]], [7, 8, 9, 10]
    together = generated(run(Settler(), process, seeds, prompts, **changes), process)
    lengths = set()
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        (single,) = generated(run(Settler(), process, [seed], [prompt], **changes), process)
        assert torch.equal(together[row, : len(single)], single)
        lengths.add(len(single))
    assert len(lengths) > 1


@REAL_PROCESSES
def test_rows_that_stop_early_write_what_they_write_alone(make_denoiser, process):
    denoiser = make_denoiser(process)
    prompts = [[5, 6, 7, 8, 9], [1, 2], [11, 12, 13, 14, 15, 16, 17, 18], [21]]
    changes: dict[str, Any] = {"max_tokens": 24, "steps": 8, "picker": Picker(0.6), "stop": EarlyStop(1.2)}
    together = run(denoiser, denoiser.process, [4, 5, 6, 7], prompts, **changes)
    assert any(0 < step.active.sum() < 4 for step in together)
    singles = [run(denoiser, denoiser.process, [4 + row], [prompt], **changes) for row, prompt in enumerate(prompts)]
    tokens = torch.cat([generated(single, denoiser.process) for single in singles])
    assert torch.equal(generated(together, denoiser.process), tokens)
    for row, single in enumerate(singles):
        taken = [(step.block, step.index, step.t) for step in together if step.active[row]]
        assert taken == [(step.block, step.index, step.t) for step in single]
