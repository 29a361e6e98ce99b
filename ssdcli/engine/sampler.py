"""The block loop: denoise a canvas step by step, commit it, and go on from the longer prefix."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafting import Agreement
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.drafting.verification import write_block
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.guidance import guided, guided_from_left
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process import Canvas, Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.characters import Draw
from ssdcli.engine.sampling.copying import without_copies
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.repetition import SharedText
from ssdcli.engine.sampling.reverse import ReverseProcess
from ssdcli.engine.sampling.stopping import Quorum, Settling
from ssdcli.engine.steps import Block, SamplerConfig, Step

_MEND = 1 << 34  # the word that names the draws of tokens in place of wrong bytes
_PRIOR = 1 << 32  # the word that names the draw of a block's first canvas; steps are numbered from 0


def time_grid(steps: int) -> list[float]:
    """Noise levels from 1 down to 0: steps + 1 numbers; ValueError for less than one step."""
    if steps < 1:
        raise ValueError(f"a block takes at least one step, not {steps}")
    return [1 - i / steps for i in range(steps)] + [0.0]


def sample(
    ensemble: Ensemble,
    reverse: ReverseProcess,
    prompts: Sequence[Sequence[Prompt]],
    seeds: Sequence[int],
    config: SamplerConfig,
) -> Iterator[Step]:
    """Generate rows of text after prompts[member][row], one seed a row; yields every denoising step.

    A block's noise is a function of (the row's seed, block, step) alone; where drafts are verified, of (the row's seed,
    place in the text, token). The generation ends after the block in which the last row reached its end of text, or at
    `max_tokens` (a whole number of blocks is made; the caller cuts). A row that ended before the others, or is over, is
    filled up with the first of the ends.
    """
    if config.max_tokens < 1:
        return
    prefixes = ensemble.start(prompts, time_grid(reverse.steps_of(config.block_size))[:-1])
    known = ensemble.heard(prompts, prefixes)
    noise = CounterNoise(seeds, config.device)
    written = torch.empty((len(seeds), 0), dtype=torch.int64, device=config.device)
    ended = torch.zeros(len(seeds), dtype=torch.bool, device=config.device)
    ends = torch.tensor(config.ends, dtype=torch.int64, device=config.device)
    spelled = torch.zeros_like(ended, dtype=torch.int64)
    shared = SharedText.of(config.shared or [Prompt(())] * len(seeds), config.device)
    agreement = None
    if config.drafting is not None and config.drafting.drafters and config.drafting.most > 0:
        agreement = Agreement(config.drafting, len(seeds))
    blocks = -(-config.max_tokens // config.block_size)
    for number in range(blocks):
        block = Block(number, prefixes, shared, written, ended, spelled, known)
        if config.drafting is None:
            canvas = yield from _denoise(ensemble, reverse, block, noise.derive(number), config)
        else:
            assert isinstance(reverse.process, Masked), "a causal language model joins the masked process alone"
            canvas, known = yield from write_block(ensemble, reverse.process, block, noise, config, agreement)
        tokens = torch.where(ended[:, None], config.ends[0], reverse.process.tokens(canvas))
        ended = torch.isin(tokens, ends).any(-1)
        if config.over is not None:
            ended |= torch.tensor(config.over(), device=config.device)
        if number + 1 == blocks or bool(ended.all()):  # between blocks, the host waits for the device
            return
        if config.drafting is None and known is not None:
            assert isinstance(reverse.process, Masked), "ensembles beside a causal language model alone are weighed so"
            known = ensemble.after_block(Lookahead.over(tokens, reverse.process), prefixes, known)
        prefixes = ensemble.commit(tokens, prefixes)
        if config.characters is not None:
            spelled = config.characters.after(tokens, spelled)
        written = torch.cat([written, tokens], dim=1)


def _denoise(
    ensemble: Ensemble, reverse: ReverseProcess, block: Block, noise: CounterNoise, config: SamplerConfig
) -> Generator[Step, None, Canvas]:
    """Take a canvas from pure noise to clean tokens, but for the rows that ended before; returns it.

    Each step predicts the clean tokens, log p(x0 | x_t), and lets the sampler draw x_s of a lower level s from it.
    """
    process, sampler = reverse.process, reverse.sampler
    canvas = process.prior(config.block_size, noise.derive(_PRIOR))
    done, previous, settling, quorum = block.ended, None, None, Quorum()
    chosen_by = None  # log p when each token was chosen
    for index, (t, s) in enumerate(pairwise(time_grid(reverse.steps_of(config.block_size)))):
        prediction = ensemble.denoise(canvas, t, previous, block.prefixes, block.known)
        log_p = _guided(process.carry_over(canvas, prediction.log_p), canvas, reverse, block, config)
        log_p = reverse.tempered(_fresh(log_p, canvas, process, block, config), t)
        settling, stops = _settle(reverse, settling, log_p, config.picker)
        lower = s * (~stops).double()  # a row that stops is denoised to the end at once
        prediction = replace(prediction, log_p=log_p)
        denoised = sampler.step(canvas, prediction, (t, lower), config.picker, noise.derive(index))
        decided = sampler.decided(canvas, denoised) & ~done[:, None]
        canvas = _where(done, canvas, denoised)
        active, done = ~done, done | stops | sampler.finished(canvas)
        last = s == 0 or quorum.reached(done)
        if config.characters is not None:
            chosen_by = log_p if chosen_by is None else torch.where(decided[..., None], log_p, chosen_by)
            if last or reverse.from_left:
                canvas = _spelled(canvas, chosen_by, reverse, block, noise.derive(index, _MEND), config)
        weights, by_member, chances = prediction.weights, prediction.by_member, prediction.chances
        first = torch.zeros_like(block.spelled)
        told = weights, first, by_member, log_p, canvas, decided, active, last
        yield Step(block.number, index, t, *told, chances=chances)
        if last:
            break
        previous = log_p
    return canvas


def _guided(log_p: Tensor, canvas: Canvas, reverse: ReverseProcess, block: Block, config: SamplerConfig) -> Tensor:
    """Log p (B, L, V) as the guides steer it: from the left at the next token alone, else everywhere."""
    if not reverse.from_left:
        return guided(log_p, config.guides, block.written)
    known = reverse.process.tokens(canvas), reverse.process.shows(canvas)
    return guided_from_left(log_p, config.guides, block.written, known)


def _spelled(
    canvas: Canvas, log_p: Tensor, reverse: ReverseProcess, block: Block, noise: CounterNoise, config: SamplerConfig
) -> Canvas:
    """The canvas with other tokens where they would make bytes that are no UTF-8; mostly as given.

    log_p: of each token when it was chosen, (B, L, V). Of a canvas that is not clean only what is known from the left
    on is looked at.
    """
    characters, process = config.characters, reverse.process
    assert characters is not None
    tokens = process.tokens(canvas)
    ends = torch.tensor(config.ends, device=tokens.device)
    before = tokens
    for turn in range(tokens.shape[1]):
        over = torch.isin(tokens, ends).long().cumsum(-1) > 0
        known = (process.shows(canvas) if reverse.from_left else torch.ones_like(over)) & ~over & ~block.ended[:, None]
        found = characters.wrong(tokens, known, block.spelled)
        if not bool((found[0] < tokens.shape[1]).any()):  # after a block's last step the host may wait for the device
            break
        left = _allowed(log_p, tokens, found[0], block, config)
        tokens = characters.mended(tokens, found, left, Draw(config.picker, noise.derive(turn)))
    if tokens is before:
        return canvas
    clean = process.corrupt(tokens, torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device), noise)
    return _where((tokens == before).all(-1), canvas, clean)


def _allowed(log_p: Tensor, tokens: Tensor, place: Tensor, block: Block, config: SamplerConfig) -> Tensor:
    """Log p (B, L, V) with less repetition of all other tokens at one place of each row, (B,); as given where off."""
    if config.repetition.off:
        return log_p
    here = torch.arange(tokens.shape[1], device=tokens.device) == place[:, None]
    return config.repetition.apply(log_p, block.shared.around(block.written, tokens, ~here), here)


def _fresh(log_p: Tensor, canvas: Canvas, process: Process, block: Block, config: SamplerConfig) -> Tensor:
    """Log p (B, L, V) with less repetition of known text; as given where that is off."""
    if config.copies:
        tokens = process.tokens(canvas)
        log_p = without_copies(log_p, tokens, process.shows(canvas), block.written, config.copies)
    if config.repetition.off:
        return log_p
    shown = process.shows(canvas)
    text = block.shared.around(block.written, process.tokens(canvas), shown)
    return config.repetition.apply(log_p, text, ~shown if process.hides else torch.ones_like(shown))


def _settle(
    reverse: ReverseProcess, before: Settling | None, log_p: Tensor, picker: Picker
) -> tuple[Settling | None, Tensor]:
    """What an early stop remembers of the block's steps, and the rows that stop now: (B,) bool."""
    if reverse.stop is None:
        return None, torch.zeros(log_p.shape[0], dtype=torch.bool, device=log_p.device)
    return reverse.stop.settle(before, picker.tempered(log_p))


def _where(rows: Tensor, kept: Tensor, new: Tensor) -> Tensor:
    """The kept rows (B,) bool of one tensor and the others of another, both (B, ...)."""
    return torch.where(rows.view(-1, *[1] * (new.ndim - 1)), kept, new)
