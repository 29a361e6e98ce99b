"""Denoising losses of whole texts, document by document: all blocks of a window in one pass.

Members that can score a whole text (`BlockDiffusionLM`) see [noised ; clean] under a mask by which each noised block
reads the clean blocks before it, so that one pass denoises every block of a window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.blocks import block_levels
from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.schedules import sharing
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, Process
from ssdcli.evaluation.combinations import Combination, Positions, alone, combined_losses
from ssdcli.evaluation.estimates import margins
from ssdcli.evaluation.scored_text import ScoredText

GRID = tuple(i / 10 for i in range(11))  # weights of a small model beside its core
LEVELS = 10  # noise-level bins of equal width in which losses are reported
SCORES = 1 << 22  # log-probabilities that are combined at once, which bounds memory: 512 positions of 8,192 tokens


@dataclass(frozen=True)
class Pace:
    """How long a measurement may take.

    seconds: the time budget; measuring stops at the first document that ends after it.
    on_progress: called with the share that is done, of the work or of the time, whichever is larger.
    clock: by which time is told, in seconds.
    """

    seconds: float = math.inf
    on_progress: Callable[[float], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic

    def goes_on(self, began: float, share: float) -> bool:
        """Report progress; return whether a measurement that began at this time by the clock may continue."""
        spent = self.clock() - began
        goes_on = spent < self.seconds
        self.on_progress(max(share, spent / self.seconds) if goes_on else 1.0)
        return goes_on


@dataclass(frozen=True)
class LossSettings:
    """How losses are measured.

    window: the tokens that are read in one pass; longer texts are cut into windows.
    repeats: how many sets of noise levels each window is measured at.
    seed: of the noise.
    batch: windows per pass.
    pace: how long it may take.
    """

    window: int
    repeats: int = 2
    seed: int = 0
    batch: int = 8
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True)
class Losses:
    """Losses of D documents at W weights, or under W combinations.

    weights: (W,) the second member's weights, or the numbers of the combinations.
    sums: (D, W), estimates of a document's loss in nats, summed over its tokens and averaged over the noise level.
    tokens: (D,), how many tokens of each document are scored.
    bytes: (D,), the length of those tokens in UTF-8.
    """

    weights: np.ndarray
    sums: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray

    def nats_per_token(self) -> np.ndarray:
        """The mean loss at each weight: (W,)."""
        return np.asarray(self.sums.sum(0) / self.tokens.sum())

    def bits_per_byte(self) -> np.ndarray:
        """The same in bits per UTF-8 byte: (W,).

        Unlike a token, a byte does not depend on the tokenizer. For the masked process this bounds the code length.
        """
        return np.asarray(self.sums.sum(0) / self.bytes.sum() / math.log(2))

    def place(self, weight: float) -> int:
        """The column whose weight is nearest to this one, which may be rounded."""
        return int(np.abs(self.weights - weight).argmin())

    def over(self, weights: Sequence[float]) -> Self:
        """Keep the first columns, which are those of these weights."""
        return replace(self, weights=np.array(weights), sums=self.sums[:, : len(weights)])


@dataclass(frozen=True)
class LossesByLevel(Losses):
    """Losses of each document, and of all documents together in LEVELS bins of the noise level.

    level_sums: (LEVELS, W), the losses in each bin; they add up to the sum of `sums` over the documents.
    level_tokens: (LEVELS,), how many tokens had their noise level in each bin; they add up to all tokens.
    level_margins: (LEVELS, W), half the width of the mean's 95% confidence interval in each bin, in nats per token; nan
        where too few documents had a noise level in the bin.
    """

    level_sums: np.ndarray
    level_tokens: np.ndarray
    level_margins: np.ndarray

    @classmethod
    def of(cls, sums: np.ndarray, seen: np.ndarray, texts: Sequence[ScoredText]) -> LossesByLevel:
        """Losses of whole texts, from what was lost of each in each bin, (D, LEVELS, W), and its tokens there."""
        return cls(
            weights=np.arange(sums.shape[2]),
            sums=sums.sum(1),
            tokens=np.array([sum(text.counted) for text in texts]),
            bytes=np.array([text.bytes for text in texts]),
            level_sums=sums.sum(0),
            level_tokens=seen.sum(0),
            level_margins=margins(sums, seen),
        )

    def nats_by_level(self) -> np.ndarray:
        """The mean loss of the tokens whose noise level was in each bin: (LEVELS, W), nan for an empty bin."""
        seen = np.where(self.level_tokens > 0, self.level_tokens, np.nan)
        return np.asarray(self.level_sums / seen[:, None])

    def over(self, weights: Sequence[float]) -> Self:
        """Keep the first columns, which are those of these weights."""
        first = slice(len(weights))
        levels = {"level_sums": self.level_sums[:, first], "level_margins": self.level_margins[:, first]}
        return replace(super().over(weights), **levels)


def level_bin(t: Tensor) -> Tensor:
    """The bin of each noise level, from 0: (...) float to (...) int64."""
    return (t * LEVELS).long().clamp(0, LEVELS - 1)


def best_weight(losses: Losses) -> float:
    """The weight above 0 with the lowest loss of the grid: the small model always takes part."""
    return GRID[1 + int(losses.nats_per_token()[1:].argmin())]


def shares(weights: Sequence[float], members: int, process: Process, rule: Rule = mix) -> list[Combination]:
    """Mixtures of a core and a small model by the default schedule, one for each weight of the small model."""
    if members == 1:
        return [alone(0, 1)] * len(weights)
    return [Combination(rule, sharing(share, process.name)) for share in weights]


def measure(
    members: Sequence[Backbone],
    process: Process,
    texts: Sequence[ScoredText],
    weights: Sequence[float],
    settings: LossSettings,
) -> LossesByLevel:
    """Measure the loss of one member, or of mixtures of two at each weight of the second."""
    mixtures = shares(weights, len(members), process)
    return measure_combinations(members, process, texts, mixtures, settings).over(weights)


def measure_combinations(
    members: Sequence[Backbone],
    process: Process,
    texts: Sequence[ScoredText],
    combinations: Sequence[Combination],
    settings: LossSettings,
) -> LossesByLevel:
    """Measure the losses of combinations of members, all on the same noise, on as many texts as time allows.

    Self-conditioning is off, so that one prediction of each member serves all combinations. Texts are measured in
    order, each as a whole or not at all; the first is always measured.
    """
    sums = np.zeros((len(texts), LEVELS, len(combinations)))
    seen = np.zeros((len(texts), LEVELS))
    began, whole = settings.pace.clock(), 0
    for batch in _batches(texts, settings, members[0].block_size):
        losses, tokens = _batch_losses(members, process, batch, combinations)
        documents = [window.document for window in batch]
        np.add.at(sums, documents, losses.numpy() / settings.repeats)
        np.add.at(seen, documents, tokens.numpy() / settings.repeats)
        whole = batch[-1].document + batch[-1].ends
        if not settings.pace.goes_on(began, whole / len(texts)) and whole:
            break
    return LossesByLevel.of(sums[:whole], seen[:whole], texts[:whole])


@dataclass(frozen=True)
class _Window:
    """A part of a document, padded.

    document: the index of its text.
    ends: whether it is the document's last window.
    tokens: (window,) int64.
    blocks: (window,) int64, the block of each token.
    scored: (window,) bool, which tokens count.
    key: seeds its noise.
    """

    document: int
    ends: bool
    tokens: Tensor
    blocks: Tensor
    scored: Tensor
    key: int


def _batches(texts: Sequence[ScoredText], settings: LossSettings, block: int) -> Iterator[list[_Window]]:
    """Cut the documents into windows of one length, and yield them in batches."""
    batch: list[_Window] = []
    for window in _windows(texts, settings, block):
        batch.append(window)
        if len(batch) == settings.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _windows(texts: Sequence[ScoredText], settings: LossSettings, block: int) -> Iterator[_Window]:
    for document, text in enumerate(texts):
        noise = document if text.noise is None else text.noise
        for start in range(0, len(text.tokens), settings.window):
            here = slice(start, start + settings.window)
            padding = settings.window - len(text.tokens[here])
            tokens = [*map(int, text.tokens[here]), *[0] * padding]
            scored = [*text.counted[here], *[False] * padding]
            plain = text.scored is None
            blocks = [place // block for place in range(settings.window)] if plain else answer_blocks(scored, block)
            columns = torch.tensor(tokens), torch.tensor(blocks), torch.tensor(scored)
            is_last = start + settings.window >= len(text.tokens)
            for repeat in range(settings.repeats):
                ends = is_last and repeat == settings.repeats - 1
                yield _Window(document, ends, *columns, fold(settings.seed, noise, start, repeat))


def answer_blocks(scored: Sequence[bool], size: int) -> list[int]:
    """Number the blocks of a conversation: each answer begins a block, as it does when it is generated.

    scored: which tokens belong to answers. The text after an answer first fills up the answer's last block, so that the
    length of that block does not reveal where the answer ends; the rest is divided into blocks backwards from its end,
    so that the next answer begins a block of its own.
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
    """Each combination's loss, and the tokens, summed by window and noise-level bin: (B, LEVELS, C), (B, LEVELS)."""
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
    flat = Positions(tokens.flatten(), t.flatten(), process.tokens(canvas).flatten())
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
    """Sum values (B, L, W) over the positions of each bin of levels: (B, LEVELS, W) on the CPU."""
    places = level_bin(t).cpu()[..., None].expand(values.shape)
    return torch.zeros(values.shape[0], LEVELS, values.shape[2]).scatter_add_(1, places, values.cpu())


def _hidden(member: Backbone, process: Process, canvas: Canvas, packed: Packed, t: Tensor) -> Tensor:
    level = t if process.timed else None
    return denoise_sequence(member, process.embed(canvas, member), packed, level)
