"""Denoising losses of members and of their mixtures, on the same noised canvases, document by document."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.blocks import block_levels
from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.ensemble.schedules import sharing
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.evaluation.combinations import Combination, Positions, alone, combined_losses
from ssdcli.evaluation.scored_text import ScoredText

GRID = tuple(i / 10 for i in range(11))  # weights of a small model beside its core
LEVELS = 10  # stretches of equal width that the noise levels are told in
SCORES = 1 << 22  # of the predictions that are combined at once: 512 positions of 8,192 tokens


@dataclass(frozen=True)
class Pace:
    """How long a measurement may take, and who is told which share of it is done, by its work or by its time."""

    seconds: float = math.inf
    on_progress: Callable[[float], None] = lambda _: None

    def goes_on(self, began: float, share: float) -> bool:
        """Tell of progress; whether a measurement that began then, by the monotonic clock, has time left."""
        spent = time.monotonic() - began
        goes_on = spent < self.seconds
        self.on_progress(max(share, spent / self.seconds) if goes_on else 1.0)
        return goes_on


@dataclass(frozen=True)
class LossSettings:
    """How a loss is measured: in windows of `window` tokens, each at `repeats` sets of noise levels."""

    window: int
    repeats: int = 2
    seed: int = 0
    batch: int = 8
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Losses:
    """Summed losses in nats for each document and weight.

    weights: (W,) the second member's share, or where combinations were measured, their numbers; sums: (D, W), estimates
    of a document's loss summed over its tokens, the noise level averaged; tokens, bytes: (D,).
    """

    weights: np.ndarray
    sums: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray

    def nats_per_token(self) -> np.ndarray:
        """Mean loss at each weight: (W,)."""
        return np.asarray(self.sums.sum(0) / self.tokens.sum())

    def bits_per_byte(self) -> np.ndarray:
        """The same in bits per UTF-8 byte; an upper bound of the code length for the masked process: (W,)."""
        return np.asarray(self.sums.sum(0) / self.bytes.sum() / math.log(2))

    def standard_error(self) -> np.ndarray:
        """Of `nats_per_token`, documents being the independent draws (ratio estimator): (W,)."""
        residual = self.sums - self.nats_per_token() * self.tokens[:, None]
        return np.asarray(np.sqrt((residual**2).sum(0)) / self.tokens.sum())

    def difference(self, weight: float, other: float) -> tuple[float, float]:
        """Loss at `other` minus loss at `weight` in nats per token, and its standard error, paired by document."""
        delta = self.sums[:, self.place(other)] - self.sums[:, self.place(weight)]
        mean = delta.sum() / self.tokens.sum()
        return float(mean), float(np.sqrt(((delta - mean * self.tokens) ** 2).sum()) / self.tokens.sum())

    def place(self, weight: float) -> int:
        """The column of a weight."""
        return int(np.abs(self.weights - weight).argmin())


@dataclass(frozen=True)
class LossesByLevel(Losses):
    """Losses that also tell of each of LEVELS stretches of noise levels what it adds to those of all documents.

    level_sums: (LEVELS, W), which add up to `sums` over the documents. level_tokens: (LEVELS,), how many tokens were
    noised to such a level, which add up to all tokens.
    """

    level_sums: np.ndarray
    level_tokens: np.ndarray

    def nats_by_level(self) -> np.ndarray:
        """Mean loss of a token that is noised to each stretch of levels: (LEVELS, W), nan where none was."""
        seen = np.where(self.level_tokens > 0, self.level_tokens, np.nan)
        return np.asarray(self.level_sums / seen[:, None])

    def over(self, weights: Sequence[float]) -> LossesByLevel:
        """The first columns, which are those of these weights."""
        first = slice(len(weights))
        columns = {"sums": self.sums[:, first], "level_sums": self.level_sums[:, first]}
        return replace(self, weights=np.array(weights), **columns)


def stretch_of(t: Tensor) -> Tensor:
    """Which of the LEVELS stretches, from 0, each noise level lies in: (...) float to (...) int64."""
    return (t * LEVELS).long().clamp(0, LEVELS - 1)


def best_weight(losses: Losses) -> float:
    """The weight in (0, 1] with the least of the losses over the grid."""
    return GRID[1 + int(losses.nats_per_token()[1:].argmin())]


def shares(weights: Sequence[float], members: int, process: Process) -> list[Combination]:
    """Mixtures of a core and a small model at each share of the latter, as they combine by default; of one, itself."""
    if members == 1:
        return [alone(0, 1)] * len(weights)
    return [Combination(mix, sharing(share, process.name)) for share in weights]


def measure(
    members: Sequence[Backbone],
    process: Process,
    passages: Sequence[ScoredText],
    weights: Sequence[float],
    settings: LossSettings,
) -> LossesByLevel:
    """Measure the loss of one member, or of mixtures of two at each share of the second."""
    mixtures = shares(weights, len(members), process)
    return measure_combinations(members, process, passages, mixtures, settings).over(weights)


def measure_combinations(
    members: Sequence[Backbone],
    process: Process,
    passages: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: LossSettings,
) -> LossesByLevel:
    """Measure the loss of combinations of members on the same noise, of as many passages as there is time for.

    Self-conditioning is off, so that one prediction of each member serves them all. The first passage is always
    measured.
    """
    sums = np.zeros((len(passages), LEVELS, len(combinations)))
    seen = np.zeros((len(passages), LEVELS))
    began, whole = time.monotonic(), 0
    for batch in _batches(passages, settings, members[0].block_size):
        losses, tokens = _batch_losses(members, process, batch, combinations)
        documents = [window.document for window in batch]
        np.add.at(sums, documents, losses.numpy() / settings.repeats)
        np.add.at(seen, documents, tokens.numpy() / settings.repeats)
        whole = batch[-1].document + batch[-1].ends
        if not settings.pace.goes_on(began, whole / len(passages)) and whole:
            break
    measured = passages[:whole]
    return LossesByLevel(
        weights=np.arange(len(combinations)),
        sums=sums[:whole].sum(1),
        tokens=np.array([sum(passage.counted) for passage in measured]),
        bytes=np.array([passage.bytes for passage in measured]),
        level_sums=sums[:whole].sum(0),
        level_tokens=seen[:whole].sum(0),
    )


@dataclass(frozen=True)
class _Window:
    """A stretch of a document in blocks, padded; `scored` marks the tokens that count, `ends` a document's last one."""

    document: int
    ends: bool
    tokens: Tensor
    blocks: Tensor
    scored: Tensor
    key: int


def _batches(passages: Sequence[ScoredText], settings: LossSettings, block: int) -> Iterator[list[_Window]]:
    """Cut the documents into windows of one length, a few at a time."""
    batch: list[_Window] = []
    for window in _windows(passages, settings, block):
        batch.append(window)
        if len(batch) == settings.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _windows(passages: Sequence[ScoredText], settings: LossSettings, block: int) -> Iterator[_Window]:
    for document, passage in enumerate(passages):
        noise = document if passage.noise is None else passage.noise
        for start in range(0, len(passage.tokens), settings.window):
            here = slice(start, start + settings.window)
            padding = settings.window - len(passage.tokens[here])
            tokens = [*map(int, passage.tokens[here]), *[0] * padding]
            scored = [*passage.counted[here], *[False] * padding]
            plain = passage.scored is None
            blocks = [place // block for place in range(settings.window)] if plain else answer_blocks(scored, block)
            columns = torch.tensor(tokens), torch.tensor(blocks), torch.tensor(scored)
            is_last = start + settings.window >= len(passage.tokens)
            for repeat in range(settings.repeats):
                ends = is_last and repeat == settings.repeats - 1
                yield _Window(document, ends, *columns, fold(settings.seed, noise, start, repeat))


def answer_blocks(scored: Sequence[bool], size: int) -> list[int]:
    """Number the blocks of a conversation, each of whose answers begins one, as when it is written.

    What is given ends at the end of a block, after it has filled up the answer's last one: that the answer ends there
    must not be told by the length of a block.
    """
    blocks: list[int] = []
    left = 0  # columns of the last block
    for answers, run in groupby(scored):
        length = len(list(run))
        filled = 0 if answers else min(left, length)
        first = blocks[-1] + 1 if blocks else 0
        lead = 0 if answers else (filled - length) % size
        blocks += [first - 1] * filled + [first + (lead + place) // size for place in range(length - filled)]
        left = -length % size
    return blocks


@torch.no_grad()
def _batch_losses(
    members: Sequence[Backbone], process: Process, batch: list[_Window], combinations: Sequence[Combination]
) -> tuple[Tensor, Tensor]:
    """Of each window and stretch of levels, each combination's summed loss, and the tokens: (B, T, C), (B, T)."""
    device = members[0].device
    tokens = torch.stack([window.tokens for window in batch]).to(device)
    noise = GeneratorNoise([window.key for window in batch], device)
    blocks = torch.stack([window.blocks for window in batch]).to(device)
    t = block_levels(blocks, noise)
    canvas = process.corrupt(tokens, t, noise)
    scored = torch.stack([window.scored for window in batch]).to(device)
    due = process.loss_weights(canvas, t) * scored
    packed = Packed.plain(tokens, blocks)
    hidden = [_hidden(member, process, canvas, packed, t) for member in members]
    flat = Positions(*(column.flatten() for column in (tokens, t, process.tokens(canvas))))
    losses = torch.zeros(*tokens.shape, len(combinations), device=device)
    places = due.reshape(-1).nonzero().squeeze(1)
    for rows in places.split(max(1, SCORES // process.vocabulary)):
        log_ps = [
            torch.log_softmax(member.logits(h.reshape(-1, h.shape[-1])[rows]), dim=-1)
            for member, h in zip(members, hidden, strict=True)
        ]
        losses.flatten(0, 1)[rows] = combined_losses(log_ps, flat.rows(rows), combinations)
    return _by_level(losses * due[..., None], t), _by_level(scored.float()[..., None], t)[..., 0]


def _by_level(values: Tensor, t: Tensor) -> Tensor:
    """Sums of values (B, L, W) over the positions of each stretch of levels: (B, LEVELS, W) on the CPU."""
    places = stretch_of(t).cpu()[..., None].expand(values.shape)
    return torch.zeros(values.shape[0], LEVELS, values.shape[2]).scatter_add_(1, places, values.cpu())


def _hidden(member: Backbone, process: Process, canvas: Canvas, packed: Packed, t: Tensor) -> Tensor:
    level = t if process.timed else None
    return denoise_sequence(member, process.embed(canvas, member), packed, (level, None))
