"""The block loop: denoise a canvas step by step, commit it, and go on from the longer prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.ensemble import Ensemble
from ssdcli.engine.noise import CounterNoise, fold
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
    ended = torch.zeros(len(seeds), dtype=torch.bool)
    blocks = -(-config.max_tokens // config.block_size)
    for block in range(blocks):
        for step in _denoise_block(
            ensemble, process, prefixes, _BlockSeeds(block, tuple(seeds), config.device), config
        ):
            yield step
        tokens = process.tokens(step.canvas)
        ended = ended | (tokens == config.end).any(-1).cpu()
        if block + 1 == blocks or bool(ended.all()):
            return
        prefixes = ensemble.commit(tokens, prefixes)


@dataclass(frozen=True)
class _BlockSeeds:
    """The rows' seeds, and the number of the block that they are used for."""

    block: int
    seeds: tuple[int, ...]
    device: str

    def noise(self, use: int) -> CounterNoise:
        """Noise for one use (a step's number, or `_PRIOR`) within the block."""
        return CounterNoise([fold(seed, self.block, use) for seed in self.seeds], self.device)


def _denoise_block(
    ensemble: Ensemble, process: Process, prefixes: tuple[Any, ...], seeds: _BlockSeeds, config: SamplerConfig
) -> Iterator[Step]:
    """Take one canvas from pure noise to clean tokens."""
    canvas = process.prior(config.block_size, seeds.noise(_PRIOR))
    heard = None
    grid = time_grid(config.steps)
    for index, (t, s) in enumerate(pairwise(grid)):
        log_p = ensemble.denoise(canvas, t, heard, prefixes)
        canvas = process.step(canvas, log_p, (t, s), config.picker, seeds.noise(index))
        heard = log_p
        yield Step(seeds.block, index, t, log_p, canvas, ensemble.weights(t))
