from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble, Prediction
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import contrast
from ssdcli.engine.ensemble.schedules import Constant, Sandwich
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.sampler import time_grid
from ssdcli.engine.sampling.acceptance import Acceptance, Published
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.sampling.stopping import EarlyStop, Quorum
from tests.engine.samples import PROCESSES, REAL_PROCESSES, L, P, Towards, V, generated, run


@given(steps=st.integers(1, 5000))
def test_time_falls_from_one_to_zero_in_equal_steps(steps):
    levels = time_grid(steps)
    assert len(levels) == steps + 1
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    assert [here - there for here, there in itertools.pairwise(levels)] == pytest.approx([1 / steps] * steps)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_block_of_no_steps_is_refused(known_denoiser, steps):
    with pytest.raises(ValueError, match="at least one step"):
        run(known_denoiser(P), Simplex(V), [0], steps=steps)


@PROCESSES
def test_every_block_takes_its_steps_down_the_time_grid(known_denoiser, process):
    denoiser = known_denoiser(P)
    steps = run(denoiser, process, [0, 1], max_tokens=2 * L + 1, steps=2)
    assert [(step.block, step.index) for step in steps] == [(b, i) for b in range(3) for i in range(2)]
    assert [step.t for step in steps] == denoiser.levels == time_grid(2)[:-1] * 3
    assert [step.last for step in steps] == [False, True] * 3
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


@PROCESSES
def test_the_noise_of_a_step_is_that_of_its_seed_block_and_number_alone(known_denoiser, process):
    seeds = [4, 7]
    steps = run(known_denoiser(P), process, seeds, steps=4, max_tokens=2 * L)
    for before, step in itertools.pairwise(steps):
        if step.index > 0:
            lower = torch.full((2,), time_grid(4)[step.index + 1], dtype=torch.float64)
            noise = CounterNoise(seeds).derive(step.block, step.index)
            again = reverse_process(process).sampler.step(
                before.canvas, Prediction(step.log_p), (step.t, lower), Picker(), noise
            )
            assert torch.equal(again, step.canvas)


@pytest.mark.parametrize("process", [Simplex(V), Uniform(V)], ids=lambda process: process.name)
def test_a_block_begins_with_noise_that_no_step_uses(process):
    recorder = Recorder()
    run(recorder, process, [4], steps=3, max_tokens=L)
    for index in range(3):
        assert not torch.equal(recorder.canvases[0], process.prior(L, CounterNoise([4]).derive(0, index)))


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


def canvases_before(steps: list[Any], process: Process) -> list[Tensor]:
    """What each step denoised; of a block's first one, any noise."""
    noise = process.prior(L, CounterNoise(range(len(steps[0].active))))
    return [noise if step.index == 0 else steps[i - 1].canvas for i, step in enumerate(steps)]


@PROCESSES
def test_the_members_predictions_and_weights_are_those_of_the_step(known_denoiser, process):
    small, core = known_denoiser(P), known_denoiser(P[::-1])
    group = Ensemble((Member("small", small, Constant(0.4)), Member("core", core, Sandwich(0.6, light=0.5))))
    steps = run(group, process, [0, 1], steps=4, max_tokens=2 * L)
    befores = canvases_before(steps, process)
    for step, middle, before in zip(steps, [False, True, True, False] * 2, befores, strict=True):
        assert step.weights == (0.4, 0.6 * middle)
        assert torch.equal(step.by_member[0], small.log_p.expand(2, L, V))
        assert torch.equal(step.by_member[1], core.log_p.expand(2, L, V)) if middle else step.by_member[1] is None
        assert torch.equal(step.log_p, process.carry_over(before, group.combine(step.by_member, step.weights)))


@PROCESSES
def test_decided_are_the_positions_of_active_rows_whose_token_the_step_chose(known_denoiser, process):
    steps = run(known_denoiser(P), process, [0, 1, 2], steps=4, stop=EarlyStop(entropy=10.0, steps=2))
    for before, after in itertools.pairwise(steps):
        if before.block == after.block:
            chosen = reverse_process(process).sampler.decided(before.canvas, after.canvas) & after.active[:, None]
            assert torch.equal(after.decided, chosen)


@REAL_PROCESSES
def test_a_real_model_writes_the_same_text_in_any_batch(make_denoiser, process):
    denoiser = make_denoiser(process)
    prompts = [[5, 6, 7, 8, 9], [1, 2], [11, 12, 13, 14, 15, 16, 17, 18], [21]]
    seeds = [4, 5, 6, 7]
    changes: dict[str, Any] = {"max_tokens": 24, "steps": 4, "picker": Picker(0.8, 0.9)}
    together = run(denoiser, denoiser.process, seeds, prompts, **changes)
    tokens = generated(together, denoiser.process)
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        single = run(denoiser, denoiser.process, [seed], [prompt], **changes)
        assert torch.equal(generated(single, denoiser.process)[0], tokens[row])
    again = run(denoiser, denoiser.process, seeds, prompts, **changes)
    for step, other in zip(together, again, strict=True):
        assert torch.equal(step.canvas, other.canvas)
        assert torch.equal(step.log_p, other.log_p)
    others = run(denoiser, denoiser.process, [8, 9, 10, 11], prompts, **changes)
    assert not torch.equal(generated(others, denoiser.process), tokens)


@REAL_PROCESSES
@pytest.mark.parametrize("picker", [Picker(temperature=0.0), Picker(top_p=1e-9), Picker(temperature=1e-7)], ids=str)
def test_at_temperature_zero_or_with_the_smallest_nucleus_every_token_is_the_likeliest(make_denoiser, process, picker):
    denoiser = make_denoiser(process)
    steps = run(denoiser, denoiser.process, [1, 2], [[5, 6], [7]], max_tokens=24, picker=picker)
    for step in steps:
        if step.last:
            likeliest = step.log_p.argmax(-1)
            assert torch.equal(denoiser.process.tokens(step.canvas)[step.decided], likeliest[step.decided])
    assert sum(int(step.decided.sum()) for step in steps) >= 48


@pytest.mark.parametrize(
    ("process", "picker"),
    [
        *((process, Picker(top_p=1e-9)) for process in ("masked", "simplex", "uniform")),
        *((process, Picker(temperature=1e-7)) for process in ("masked", "simplex")),  # uniform: it feels sure of all
    ],
    ids=str,
)
def test_the_smallest_nucleus_and_the_least_heat_write_what_temperature_zero_writes(make_denoiser, process, picker):
    denoiser = make_denoiser(process)
    texts = [
        generated(run(denoiser, denoiser.process, [1, 2], [[5, 6], [7]], max_tokens=24, picker=p), denoiser.process)
        for p in (Picker(temperature=0.0), picker)
    ]
    assert torch.equal(*texts)


@REAL_PROCESSES
def test_writing_goes_on_past_a_full_window(make_denoiser, process):
    denoiser = make_denoiser(process)
    steps = run(denoiser, denoiser.process, [1, 2], [[3] * 59, [4]], max_tokens=120, steps=2)
    assert len(steps) == 60
    assert all(step.log_p.exp().sum(-1).allclose(torch.ones(())) for step in steps)


@REAL_PROCESSES
def test_no_step_of_a_block_reads_from_the_device(make_denoiser, process, monkeypatch):
    """On the meta device tensors have no values, so that nothing can be read; a GPU's quorum reads nothing in time."""
    monkeypatch.setattr(Quorum, "reached", lambda self, done: False)
    small, base = make_denoiser(process), make_denoiser(process, seed=1)
    for denoiser in (small, base):
        denoiser.backbone.to("meta")
    members = (Member("core", small, Constant(1.0)), Member("base", base, Constant(-0.5)))
    changes: dict[str, Any] = {
        "stop": EarlyStop(0.005),
        "guides": (Towards(2, 1.0),),
        "picker": Picker(0.8, 0.9),
        "device": "meta",
        "steps": 2,
    }
    steps = run(Ensemble(members, contrast), small.process, [1, 2], [[5, 6], [7] * 40], max_tokens=L, **changes)
    assert len(steps) == 2
    assert all(step.log_p.is_meta and step.canvas.is_meta and step.active.is_meta for step in steps)


class Recorder:
    """Notes what it reads and is conditioned on, and predicts something else at every step."""

    def __init__(self) -> None:
        self.previous: list[Tensor | None] = []
        self.said: list[Tensor] = []
        self.canvases: list[Tensor] = []

    def start(self, prompts: Any) -> None:
        return None

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: None) -> Tensor:
        generator = torch.Generator().manual_seed(len(self.said))
        self.previous.append(previous)
        self.canvases.append(canvas)
        self.said.append(torch.log_softmax(torch.randn(*canvas.shape[:2], V, generator=generator), dim=-1))
        return self.said[-1]

    def commit(self, tokens: Tensor, prefix: None) -> None:
        return None


def test_a_step_is_conditioned_on_the_last_prediction_and_a_block_begins_without_one():
    recorder = Recorder()
    run(recorder, Simplex(V), [0], max_tokens=2 * L, steps=3)
    expected = [None, *recorder.said[:2], None, *recorder.said[3:5]]
    assert [previous is said for previous, said in zip(recorder.previous, expected, strict=True)] == [True] * 6


def test_all_members_hear_what_they_said_together_also_those_that_were_idle():
    light, heavy = Recorder(), Recorder()
    group = Ensemble((Member("light", light, Constant(0.5)), Member("heavy", heavy, Sandwich(0.5, light=0.5))))
    steps = run(group, Simplex(V), [0], max_tokens=L, steps=4)
    together = [None, *(step.log_p for step in steps[:3])]
    assert [previous is said for previous, said in zip(light.previous, together, strict=True)] == [True] * 4
    assert [previous is said for previous, said in zip(heavy.previous, together[1:3], strict=True)] == [True] * 2


def test_predictions_are_brought_to_the_temperature_of_their_time_before_all_else():
    """It falls over the steps; the next step is conditioned on what was tempered, and a row stops by it."""
    recorder, process = Recorder(), Uniform(V, timed=False, published=vars(Published(hot=0.8, cold=0.4)))
    steps = run(recorder, process, [0, 1], max_tokens=L, steps=4)
    for step, said, temperature in zip(steps, recorder.said, (0.8, 0.7, 0.6, 0.5), strict=True):
        torch.testing.assert_close(step.log_p, torch.log_softmax(said / temperature, dim=-1))
        assert torch.equal(step.by_member[0], said)
    assert [previous is step.log_p for previous, step in zip(recorder.previous[1:], steps[:-1], strict=True)] == [
        True
    ] * 3
    assert torch.equal(process.tokens(steps[-1].canvas), recorder.said[-1].argmax(-1))


def test_a_temperature_that_is_asked_for_comes_on_top_of_the_processes_own(known_denoiser):
    seeds = list(range(500))
    process, even = (
        Uniform(V, timed=False, published=vars(Published(0.5, 0.5, bound=100.0))),
        Acceptance(Uniform(V), 100.0),
    )
    asked = run(known_denoiser(P), process, seeds, max_tokens=L, steps=2, picker=Picker(0.6))[0]
    whole = run(known_denoiser(P), even, seeds, max_tokens=L, steps=2, picker=Picker(0.3))[0]
    assert torch.equal(asked.canvas, whole.canvas)


@PROCESSES
def test_guides_are_added_renormalised_and_conditioned_on(process):
    recorder, guides = Recorder(), (Towards(2, 1.5), Towards(3, 0.5))
    steps = run(recorder, process, [0, 1], max_tokens=2 * L, steps=3, guides=guides)
    push = torch.tensor([0, 0, 1.5, 0.5, 0, 0])
    befores = canvases_before(steps, process)
    for step, said, (shown, _), before in zip(steps, recorder.said, guides[0].shown, befores, strict=True):
        assert torch.equal(shown, process.carry_over(before, said))
        torch.testing.assert_close(step.log_p, torch.log_softmax(process.carry_over(before, said) + push, dim=-1))
        assert torch.equal(step.by_member[0], said)
    previous = [None, *(step.log_p for step in steps[:2]), None, *(step.log_p for step in steps[3:5])]
    assert [there is here for there, here in zip(recorder.previous, previous, strict=True)] == [True] * 6


@PROCESSES
def test_guides_see_the_blocks_that_are_written(known_denoiser, process):
    guide = Towards(2, 1.0)
    steps = run(known_denoiser(P), process, [0, 1], steps=2, guides=(guide,))
    text = generated(steps, process)
    for step, (_, written) in zip(steps, guide.shown, strict=True):
        assert torch.equal(written, text[:, : step.block * L])


@PROCESSES
def test_text_follows_its_guides(known_denoiser, process):
    seeds = list(range(500))
    steps = run(known_denoiser(P), process, seeds, max_tokens=L, guides=(Towards(4, math.log(9)), Towards(5, 50.0)))
    share = (generated(steps, process) == 4).float().mean()
    assert share == pytest.approx(0.5, abs=5 * (0.25 / (500 * L)) ** 0.5)
    assert (generated(steps, process) != 5).all()
