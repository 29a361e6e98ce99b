"""Our sampler against the native class's own `generate`, at equal noise, step for step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical
from transformers import LogitsProcessor, LogitsProcessorList

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.uniform import Uniform
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import _PRIOR, sample
from ssdcli.engine.sampling.nucleus import Picker, entropy
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.engine.steps import SamplerConfig, Step
from tests.models.families import diffusion_gemma as tiny
from tests.models.families.parity import open_core

BLOCKS = 3
ENDS = (tiny.END, tiny.TURN, tiny.RESPONSE)
CLOSE = 1e-3  # nats: what float32 rounds is divided by temperatures of a tenth and less, and conditions the next step


@dataclass(frozen=True)
class NativeStep:
    """One step of `generate`: what it sampled from, its canvas and what it accepted, and the rows that are done."""

    log_p: Tensor
    canvas: Tensor
    accepted: Tensor
    likeliest: Tensor
    done: Tensor


class EqualNoise:
    """Stands in for the draws of `generate`, which begins a block with noise, and in each step draws and renoises."""

    def __init__(self, process: Uniform, seeds: list[int]) -> None:
        self._process, self._noise = process, CounterNoise(seeds)
        self._block, self._step = -1, 0
        self._renoising: CounterNoise | None = None

    def multinomial(self, p: Tensor, num_samples: int) -> Tensor:
        noise = self._renoising = self._noise.derive(self._block, self._step)
        self._step += 1
        return Picker().draw(p.log().view(-1, tiny.BLOCK, tiny.ROWS), noise).view(-1, num_samples)

    def randint(self, low: int, high: int, size: tuple[int, int], device: torch.device) -> Tensor:
        assert (low, high, size[1]) == (0, tiny.ROWS, tiny.BLOCK)
        noise, self._renoising = self._renoising, None
        if noise is None:
            self._block, self._step = self._block + 1, 0
            noise = self._noise.derive(self._block, _PRIOR)
        return self._process.tokens(self._process.prior(tiny.BLOCK, noise))


class Mute(LogitsProcessor):
    """Leaves out what we never write."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores.index_fill(-1, torch.tensor(tiny.NEVER), -torch.inf)


def generate(native: Any, process: Uniform, prompts: list[list[int]], seeds: list[int]) -> tuple[list, Tensor]:
    """Every step of the native sampler and what it wrote."""
    steps, denoise, noise = [], native._denoising_step, EqualNoise(process, seeds)

    def watched(**inputs: Any) -> Any:
        canvas, likeliest, logits, done = outputs = denoise(**inputs)
        accepted = inputs["sampler"].accepted_token_mask
        steps.append(NativeStep(logits.log_softmax(-1), canvas, accepted, likeliest, done.clone()))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "multinomial", noise.multinomial)
        patch.setattr(torch, "randint", noise.randint)
        patch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)  # would import a compiler
        patch.setattr(native, "_denoising_step", watched)
        inputs = {"input_ids": torch.tensor(prompts), "logits_processor": LogitsProcessorList([Mute()])}
        written = native.generate(**inputs, max_new_tokens=BLOCKS * tiny.BLOCK)
    return steps, written.sequences[:, len(prompts[0]) :]


def ours(core: Denoiser, prompts: list[list[int]], seeds: list[int]) -> list[Step]:
    config = SamplerConfig(tiny.BLOCK, BLOCKS * tiny.BLOCK, ENDS, Picker())
    group = Ensemble((Member("core", core, Constant(1.0)),))
    rows = [Prompt(prompt) for prompt in prompts]
    return list(sample(group, reverse_process(core.process), [rows], seeds, config))


@pytest.fixture(scope="module")
def core(pulled) -> Denoiser:
    return open_core(pulled("diffusion_gemma"))


@pytest.fixture(scope="module")
def native(written) -> Any:
    return tiny.open_native(written("diffusion_gemma"))


def prompts(rows: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(tiny.ROWS, (rows, length), generator=generator).tolist()


def same(process: Uniform, step: Step, theirs: NativeStep) -> None:
    """Hold the rows of a step that are active against the native one."""
    rows, last = step.active, step.index + 1 == reverse_process(process).steps
    torch.testing.assert_close(step.log_p[rows].double(), theirs.log_p[rows].double(), rtol=0, atol=CLOSE)
    theirs_doubt = Categorical(logits=theirs.log_p[rows]).entropy()
    torch.testing.assert_close(entropy(step.log_p[rows]).double(), theirs_doubt.double(), rtol=0, atol=CLOSE)
    ending = theirs.done | last
    tokens = process.tokens(step.canvas)
    assert torch.equal(tokens[rows & ending], theirs.likeliest[rows & ending])
    assert torch.equal(tokens[rows & ~ending], theirs.canvas[rows & ~ending])
    assert torch.equal((step.canvas >= 0)[rows & ~ending], theirs.accepted[rows & ~ending])


def ended(tokens: Tensor) -> list[list[int]]:
    """Each row up to its first end."""
    return [row[: next((n + 1 for n, token in enumerate(row) if token in ENDS), None)] for row in tokens.tolist()]


@pytest.mark.parametrize(
    ("length", "seeds", "taken"),
    [
        (20, [1, 2, 3], [[14, 11, 8], [6, 9, 13], [14, 6, 9]]),
        (45, [5, 6, 7, 8], [[14, 14, 7, 7], [7, 9, 6, 14], [14, 6, 5, 7]]),
        (3, [4], [[14]]),  # its text ends in the first block
    ],
    ids=["short", "long", "ends"],
)
def test_every_step_is_that_of_the_native_sampler(core, native, length, seeds, taken):
    known = prompts(len(seeds), length)
    steps = ours(core, known, seeds)
    theirs, written = generate(native, core.process, known, seeds)
    for step, native_step in zip(steps, theirs, strict=True):
        same(core.process, step, native_step)
    blocks = [[step for step in steps if step.block == block] for block in range(len(taken))]
    assert [sum(step.active.int() for step in block).tolist() for block in blocks] == taken
    tokens = torch.cat([core.process.tokens(block[-1].canvas) for block in blocks], dim=1)
    assert ended(tokens) == ended(written)
