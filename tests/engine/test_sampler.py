from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.ensemble import Constant, Ensemble, Member
from ssdcli.engine.nucleus import Picker
from ssdcli.engine.process import Masked, Process, Simplex
from ssdcli.engine.sampler import SamplerConfig, sample, time_grid

NEVER = -1  # an end of text that never comes
V, L = 6, 4
PROCESSES = pytest.mark.parametrize("process", [Masked(V, mask_id=V - 1), Simplex(V)], ids=["masked", "simplex"])
P = [0.3, 0.25, 0.2, 0.15, 0.1, 0.0]


def alone(denoiser: Any) -> Ensemble:
    return Ensemble((Member("one", denoiser, Constant(1.0)),))


def settings(**changes: Any) -> SamplerConfig:
    fields: dict[str, Any] = {"block_size": L, "max_tokens": 3 * L, "steps": 5, "end": NEVER, "picker": Picker()}
    return SamplerConfig(**{**fields, **changes})


def generated(steps: list[Any], process: Process) -> Tensor:
    """The tokens of all blocks: (B, blocks * L)."""
    last = {step.block: step for step in steps}
    return torch.cat([process.tokens(last[block].canvas) for block in sorted(last)], dim=1)


def run(denoiser: Any, process: Process, seeds: list[int], **changes: Any) -> list[Any]:
    prompts = [[[1]] * len(seeds)]
    return list(sample(alone(denoiser), process, prompts, seeds, settings(**changes)))


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_time_runs_from_one_to_zero_in_equal_parts(steps):
    grid = time_grid(steps)
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (1.0, 0.0)
    for here, there in itertools.pairwise(grid):
        assert here - there == pytest.approx(1 / steps)


@PROCESSES
def test_every_block_takes_its_steps_down_the_time_grid(known_denoiser, process):
    denoiser = known_denoiser(P)
    steps = run(denoiser, process, [0, 1], max_tokens=2 * L + 1, steps=5)
    assert [(step.block, step.index) for step in steps] == [(b, i) for b in range(3) for i in range(5)]
    assert [step.t for step in steps] == time_grid(5)[:-1] * 3
    assert denoiser.levels == time_grid(5)[:-1] * 3
    assert (denoiser.started, denoiser.committed) == (1, 2)
    assert all(step.weights == (1.0,) for step in steps)
    assert all(step.log_p.shape == (2, L, V) for step in steps)
    assert generated(steps, process).shape == (2, 3 * L)


@PROCESSES
@pytest.mark.parametrize("max_tokens", [0, -3])
def test_no_tokens_take_no_steps(known_denoiser, process, max_tokens):
    denoiser = known_denoiser(P)
    assert run(denoiser, process, [0], max_tokens=max_tokens) == []
    assert denoiser.started == 0


@PROCESSES
def test_a_row_is_the_same_bytes_in_any_batch(known_denoiser, process):
    seeds = [3, 1 << 63, 5, 3, -2, 11, 12]
    together = run(known_denoiser(P), process, seeds)
    for row, seed in enumerate(seeds):
        for step, single in zip(together, run(known_denoiser(P), process, [seed]), strict=True):
            assert torch.equal(step.canvas[row], single.canvas[0])
    backwards = run(known_denoiser(P), process, seeds[::-1])
    assert torch.equal(backwards[-1].canvas.flip(0), together[-1].canvas)


@PROCESSES
def test_other_seeds_and_other_blocks_give_other_text(known_denoiser, process):
    tokens = generated(run(known_denoiser(P), process, list(range(40)), max_tokens=8 * L), process)
    assert len(tokens.unique(dim=0)) == 40
    blocks = tokens.view(40, 8, L)
    assert all(len(row.unique(dim=0)) > 4 for row in blocks)


def test_every_step_draws_afresh(known_denoiser):
    """The simplex process draws all tokens at every step: the model's distribution is the same at each."""
    steps = run(known_denoiser(P), Simplex(V), list(range(20)), max_tokens=L, steps=200)[100:]
    drawn = torch.stack([step.canvas.argmax(-1) for step in steps])
    assert (drawn[1:] != drawn[:-1]).flatten(1).any(-1).all()


@PROCESSES
def test_drawn_text_has_the_distribution_of_the_model(known_denoiser, process):
    tokens = generated(run(known_denoiser(P), process, list(range(2000)), max_tokens=L, steps=3), process)
    observed = torch.bincount(tokens.flatten(), minlength=V)
    expected = tokens.numel() * torch.tensor(P)
    assert observed[-1] == 0
    statistic = ((observed - expected)[:-1] ** 2 / expected[:-1]).sum()
    assert statistic < 4 + 4 * 8**0.5 + 4


@pytest.mark.parametrize("process", ["masked", "simplex"])
def test_a_real_model_writes_the_same_text_in_any_batch(make_denoiser, process):
    denoiser = make_denoiser(process)
    prompts = [[5, 6, 7, 8, 9], [1, 2], [11, 12, 13, 14, 15, 16, 17, 18], [21]]
    seeds = [4, 5, 6, 7]
    config = settings(max_tokens=24, steps=4, picker=Picker(0.8, 0.9))
    together = list(sample(alone(denoiser), denoiser.process, [prompts], seeds, config))
    tokens = generated(together, denoiser.process)
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        single = list(sample(alone(denoiser), denoiser.process, [[prompt]], [seed], config))
        assert torch.equal(generated(single, denoiser.process)[0], tokens[row])
    again = list(sample(alone(denoiser), denoiser.process, [prompts], seeds, config))
    for step, other in zip(together, again, strict=True):
        assert torch.equal(step.canvas, other.canvas)
        assert torch.equal(step.log_p, other.log_p)
    others = list(sample(alone(denoiser), denoiser.process, [prompts], [8, 9, 10, 11], config))
    assert not torch.equal(generated(others, denoiser.process), tokens)


@pytest.mark.parametrize("process", ["masked", "simplex"])
def test_the_smallest_nucleus_writes_what_temperature_zero_writes(make_denoiser, process):
    denoiser = make_denoiser(process)
    texts = []
    for picker in (Picker(temperature=0.0), Picker(top_p=1e-9), Picker(temperature=1e-7)):
        config = settings(max_tokens=24, picker=picker)
        steps = list(sample(alone(denoiser), denoiser.process, [[[5, 6], [7]]], [1, 2], config))
        texts.append(generated(steps, denoiser.process))
    assert torch.equal(texts[0], texts[1])
    assert torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("process", ["masked", "simplex"])
def test_writing_goes_on_past_a_full_window(make_denoiser, process):
    denoiser = make_denoiser(process)
    config = settings(max_tokens=120, steps=2)
    steps = list(sample(alone(denoiser), denoiser.process, [[[3] * 59, [4]]], [1, 2], config))
    assert len(steps) == 60
    assert all(step.log_p.exp().sum(-1).allclose(torch.ones(())) for step in steps)


class Ender:
    """Writes token 1 everywhere, and END throughout the block that a row's prompt names."""

    END = 2

    def start(self, rows: Any) -> tuple[Tensor, int]:
        return torch.tensor([row[0] for row in rows]), 0

    def denoise(self, canvas: Tensor, t: float, heard: Tensor | None, prefix: tuple[Tensor, int]) -> Tensor:
        ends_in, block = prefix
        token = torch.where(ends_in == block, self.END, 1)
        p = torch.nn.functional.one_hot(token, V).float()
        return p.log()[:, None].expand(*canvas.shape[:2], -1)

    def commit(self, tokens: Tensor, prefix: tuple[Tensor, int]) -> tuple[Tensor, int]:
        return prefix[0], prefix[1] + 1


@PROCESSES
@pytest.mark.parametrize(("ends", "blocks"), [([0], 1), ([3], 4), ([2, 0, 4], 5), ([9], 6), ([1, 9], 6)])
def test_writing_stops_after_the_block_in_which_the_last_row_ended(process, ends, blocks):
    config = settings(max_tokens=6 * L, steps=2, end=Ender.END)
    prompts = [[[end] for end in ends]]
    steps = list(sample(alone(Ender()), process, prompts, list(range(len(ends))), config))
    assert {step.block for step in steps} == set(range(blocks))
    tokens = generated(steps, process).view(len(ends), blocks, L)
    for row, end in enumerate(ends):
        assert [bool((block == Ender.END).all()) for block in tokens[row]] == [b == end for b in range(blocks)]


class Listener:
    """Notes what it hears, and says something else at every step."""

    def __init__(self) -> None:
        self.heard: list[Tensor | None] = []
        self.said: list[Tensor] = []

    def start(self, rows: Any) -> None:
        return None

    def denoise(self, canvas: Tensor, t: float, heard: Tensor | None, prefix: None) -> Tensor:
        torch.manual_seed(len(self.said))
        self.heard.append(heard)
        self.said.append(torch.log_softmax(torch.randn(*canvas.shape[:2], V), dim=-1))
        return self.said[-1]

    def commit(self, tokens: Tensor, prefix: None) -> None:
        return None


def test_a_step_hears_the_last_prediction_and_a_block_begins_unheard():
    listener = Listener()
    run(listener, Simplex(V), [0], max_tokens=2 * L, steps=3)
    expected = [None, *listener.said[:2], None, *listener.said[3:5]]
    assert [heard is said for heard, said in zip(listener.heard, expected, strict=True)] == [True] * 6
