"""The block loop: denoise a canvas step by step, commit it, and go on from the longer prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.ensemble import Ensemble
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.nucleus import Picker
from ssdcli.engine.process import Canvas, Process

_PRIOR = 1 << 32  # the word that names the draw of a block's first canvas; steps are numbered from 0


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: blocks of `block_size` tokens, each denoised in `steps` steps, until `end` or enough tokens."""

    block_size: int
    max_tokens: int
    steps: int
    end: int  # the id of end of text
    picker: Picker
    device: str = "cpu"


@dataclass(frozen=True)
class Step:
    """One denoising step of a block.

    log_p: (B, L, V) what the ensemble predicted at level t; canvas: what became of it; weights: each member's weight
    at t (zero: not run).
    """

    block: int
    index: int
    t: float
    log_p: Tensor
    canvas: Canvas
    weights: tuple[float, ...]


def time_grid(steps: int) -> list[float]:
    """Noise levels from 1 to 0 in equal parts: steps + 1 numbers."""
    return [1 - i / steps for i in range(steps)] + [0.0]


def sample(
    ensemble: Ensemble,
    process: Process,
    prompts: Sequence[Sequence[Sequence[int]]],
    seeds: Sequence[int],
    config: SamplerConfig,
) -> Iterator[Step]:
    """Generate rows of text after prompts[member][row], one seed a row; yields every denoising step.

    A block's noise is a function of (the row's seed, block, step) alone. The generation ends after the block in which
    the last row reached its end of text, or at `max_tokens` (a whole number of blocks is made; the caller cuts).
    """
    if config.max_tokens < 1:
        return
    prefixes = ensemble.start(prompts)
    noise = CounterNoise(seeds, config.device)
    ended = torch.zeros(len(seeds), dtype=torch.bool, device=config.device)
    blocks = -(-config.max_tokens // config.block_size)
    for block in range(blocks):
        for step in _denoise_block(ensemble, process, prefixes, noise.derive(block), config):
            yield replace(step, block=block)
        tokens = process.tokens(step.canvas)
        ended = ended | (tokens == config.end).any(-1)
        if block + 1 == blocks or bool(ended.all()):  # the one place where the host waits for the device
            return
        prefixes = ensemble.commit(tokens, prefixes)


def _denoise_block(
    ensemble: Ensemble, process: Process, prefixes: tuple[Any, ...], noise: CounterNoise, config: SamplerConfig
) -> Iterator[Step]:
    """Take one canvas from pure noise to clean tokens; the steps do not know their block's number."""
    canvas = process.prior(config.block_size, noise.derive(_PRIOR))
    heard = None
    for index, (t, s) in enumerate(pairwise(time_grid(config.steps))):
        log_p = ensemble.denoise(canvas, t, heard, prefixes)
        canvas = process.step(canvas, log_p, (t, s), config.picker, noise.derive(index))
        heard = log_p
        yield Step(0, index, t, log_p, canvas, ensemble.weights(t))
