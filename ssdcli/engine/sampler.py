"""The block loop: denoise a canvas step by step, commit it, and go on from the longer prefix."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.guidance import Guide, guided
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Canvas, Process
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.stopping import EarlyStop, Quorum, Settling

_PRIOR = 1 << 32  # the word that names the draw of a block's first canvas; steps are numbered from 0


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: blocks of `block_size` tokens, each denoised in `steps` steps, until an end or enough tokens.

    ends: the ids that end a text, one at least.
    """

    block_size: int
    max_tokens: int
    steps: int
    ends: tuple[int, ...]
    picker: Picker
    device: str = "cpu"
    stop: EarlyStop | None = None
    guides: tuple[Guide, ...] = ()


@dataclass(frozen=True)
class Step:
    """One denoising step of a block.

    weights: each member's weight at t (zero: not run). by_member: what each predicted at t, (B, L, V) or None.
    log_p: what they predicted together, known tokens certain, guides included, at the process's own temperature:
    (B, L, V); the next step is self-conditioned on it. canvas: what became of it.
    decided: the positions whose token this step chose: (B, L) bool. active: the rows that were not done before it:
    (B,) bool. last: whether this step ends the block.

    A row that is not active keeps its canvas, and its predictions count for nothing. A canvas is clean when its row is
    done; one whose text ended in an earlier block is never denoised, and stays noise.
    """

    block: int
    index: int
    t: float
    weights: tuple[float, ...]
    by_member: tuple[Tensor | None, ...]
    log_p: Tensor
    canvas: Canvas
    decided: Tensor
    active: Tensor
    last: bool


def time_grid(steps: int) -> list[float]:
    """Noise levels from 1 down to 0: steps + 1 numbers; ValueError for less than one step."""
    if steps < 1:
        raise ValueError(f"a block takes at least one step, not {steps}")
    return [1 - i / steps for i in range(steps)] + [0.0]


def sample(
    ensemble: Ensemble,
    process: Process,
    prompts: Sequence[Sequence[Prompt]],
    seeds: Sequence[int],
    config: SamplerConfig,
) -> Iterator[Step]:
    """Generate rows of text after prompts[member][row], one seed a row; yields every denoising step.

    A block's noise is a function of (the row's seed, block, step) alone. The generation ends after the block in which
    the last row reached its end of text, or at `max_tokens` (a whole number of blocks is made; the caller cuts). A row
    that ended before the others is filled up with the first of the ends.
    """
    if config.max_tokens < 1:
        return
    prefixes = ensemble.start(prompts, time_grid(config.steps)[:-1])
    noise = CounterNoise(seeds, config.device)
    written = torch.empty((len(seeds), 0), dtype=torch.int64, device=config.device)
    ended = torch.zeros(len(seeds), dtype=torch.bool, device=config.device)
    ends = torch.tensor(config.ends, dtype=torch.int64, device=config.device)
    blocks = -(-config.max_tokens // config.block_size)
    for number in range(blocks):
        block = _Block(number, prefixes, written, ended)
        canvas = yield from _denoise(ensemble, process, block, noise.derive(number), config)
        tokens = torch.where(ended[:, None], config.ends[0], process.tokens(canvas))
        ended = torch.isin(tokens, ends).any(-1)
        if number + 1 == blocks or bool(ended.all()):  # between blocks, the host waits for the device
            return
        prefixes = ensemble.commit(tokens, prefixes)
        written = torch.cat([written, tokens], dim=1)


@dataclass(frozen=True)
class _Block:
    """What there is before a block: each member's prefix, the tokens written (B, n), the rows that ended (B,)."""

    number: int
    prefixes: tuple[Any, ...]
    written: Tensor
    ended: Tensor


def _denoise(
    ensemble: Ensemble, process: Process, block: _Block, noise: CounterNoise, config: SamplerConfig
) -> Generator[Step, None, Canvas]:
    """Take a canvas from pure noise to clean tokens, but for the rows that ended before; returns it."""
    canvas = process.prior(config.block_size, noise.derive(_PRIOR))
    done, previous, settling, quorum = block.ended, None, None, Quorum()
    for index, (t, s) in enumerate(pairwise(time_grid(config.steps))):
        said = ensemble.denoise(canvas, t, previous, block.prefixes)
        log_p = _tempered(process, guided(process.carry_over(canvas, said.log_p), config.guides, block.written), t)
        settling, stops = _settle(settling, log_p, config)
        lower = s * (~stops).double()  # a row that stops is denoised to the end at once
        denoised = process.step(canvas, log_p, (t, lower), config.picker, noise.derive(index))
        decided = process.decided(canvas, denoised) & ~done[:, None]
        canvas = _where(done, canvas, denoised)
        active, done = ~done, done | stops | process.finished(canvas)
        last = s == 0 or quorum.reached(done)
        yield Step(block.number, index, t, ensemble.weights(t), said.by_member, log_p, canvas, decided, active, last)
        if last:
            break
        previous = log_p
    return canvas


def _tempered(process: Process, log_p: Tensor, t: float) -> Tensor:
    """Log p (B, L, V) at the temperature that the process itself has at t."""
    hot, cold = process.temperatures
    return Picker(cold + (hot - cold) * t).tempered(log_p)


def _settle(before: Settling | None, log_p: Tensor, config: SamplerConfig) -> tuple[Settling | None, Tensor]:
    """What an early stop remembers of the block's steps, and the rows that stop now: (B,) bool."""
    if config.stop is None:
        return None, torch.zeros(log_p.shape[0], dtype=torch.bool, device=log_p.device)
    return config.stop.settle(before, config.picker.tempered(log_p))


def _where(rows: Tensor, kept: Tensor, new: Tensor) -> Tensor:
    """The kept rows (B,) bool of one tensor and the others of another, both (B, ...)."""
    return torch.where(rows.view(-1, *[1] * (new.ndim - 1)), kept, new)
