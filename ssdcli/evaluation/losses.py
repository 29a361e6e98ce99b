"""Denoising losses of members and of their mixtures, on the same noised canvases, document by document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from ssdcli.engine.blocks import block_ids, block_levels
from ssdcli.engine.denoiser import Backbone, denoise_sequence
from ssdcli.engine.noise import GeneratorNoise, fold
from ssdcli.engine.process import Process
from ssdcli.engine.rules import mix

_SCORES = 1 << 22  # of the predictions that are held at once: 512 positions of 8,192 tokens


@dataclass(frozen=True)
class Passage:
    """A held-out document: its tokens after an end-of-text id, and its length in UTF-8 bytes."""

    tokens: Sequence[int]
    bytes: int


def passage_of(text: str, tokenizer: Tokenizer, end: int) -> Passage:
    """A whole text as a passage; `end` is the id of end of text."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return Passage([end, *ids], len(text.encode()))


@dataclass(frozen=True)
class LossSettings:
    """How a loss is measured: in windows of `window` tokens, each at `repeats` sets of noise levels."""

    window: int
    repeats: int = 2
    seed: int = 0
    batch: int = 8


@dataclass(frozen=True)
class Losses:
    """Summed losses in nats for each document and weight.

    weights: (W,) the second member's share; sums: (D, W), estimates of a document's loss summed over its tokens, the
    noise level averaged; tokens, bytes: (D,).
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


def measure(
    members: Sequence[Backbone],
    process: Process,
    passages: Sequence[Passage],
    weights: Sequence[float],
    settings: LossSettings,
) -> Losses:
    """Measure the loss of one member, or of mixtures of two at each share of the second.

    Self-conditioning is off, so that one prediction of each member serves every weight. All see the same noise.
    """
    sums = np.zeros((len(passages), len(weights)))
    for batch in _batches(passages, settings):
        losses = _batch_losses(members, process, batch, weights)
        np.add.at(sums, [item.document for item in batch], losses.numpy() / settings.repeats)
    tokens = np.array([len(passage.tokens) - 1 for passage in passages])
    return Losses(np.array(weights), sums, tokens, np.array([passage.bytes for passage in passages]))


@dataclass(frozen=True)
class _Window:
    """A stretch of a document, padded; `scored` marks the tokens that count."""

    document: int
    tokens: Tensor
    scored: Tensor
    key: int


def _batches(passages: Sequence[Passage], settings: LossSettings) -> Iterator[list[_Window]]:
    """Cut the documents into windows of one length, a few at a time."""
    batch: list[_Window] = []
    for window in _windows(passages, settings):
        batch.append(window)
        if len(batch) == settings.batch:
            yield batch
            batch = []
    if batch:
        yield batch


def _windows(passages: Sequence[Passage], settings: LossSettings) -> Iterator[_Window]:
    for document, passage in enumerate(passages):
        for start in range(0, len(passage.tokens), settings.window):
            piece = torch.tensor([int(token) for token in passage.tokens[start : start + settings.window]])
            tokens = torch.nn.functional.pad(piece, (0, settings.window - len(piece)))
            scored = torch.arange(settings.window) < len(piece)
            scored[0] &= start > 0  # the leading end of text is given, not predicted
            for repeat in range(settings.repeats):
                yield _Window(document, tokens, scored, fold(settings.seed, document, start, repeat))


@torch.no_grad()
def _batch_losses(
    members: Sequence[Backbone], process: Process, batch: list[_Window], weights: Sequence[float]
) -> Tensor:
    """Summed loss of each window at each weight: (B, W)."""
    device = members[0].device
    tokens = torch.stack([window.tokens for window in batch]).to(device)
    noise = GeneratorNoise([window.key for window in batch], device)
    blocks = block_ids(
        tokens.shape[1], members[0].block_size, torch.zeros(len(batch), dtype=torch.int64, device=device)
    )
    t = block_levels(blocks, noise)
    canvas = process.corrupt(tokens, t, noise)
    due = process.loss_weights(canvas, t) * torch.stack([window.scored for window in batch]).to(device)
    hidden = [_hidden(member, process, canvas, tokens, (blocks, t)) for member in members]
    losses = torch.zeros(*tokens.shape, len(weights), device=device)
    places = due.reshape(-1).nonzero().squeeze(1)
    for rows in places.split(max(1, _SCORES // process.vocabulary)):
        log_ps = [
            torch.log_softmax(member.logits(h.reshape(-1, h.shape[-1])[rows]), dim=-1)
            for member, h in zip(members, hidden, strict=True)
        ]
        losses.view(-1, len(weights))[rows] = cross_entropies(log_ps, tokens.reshape(-1)[rows], weights)
    return (losses * due[..., None]).sum(1).cpu()


def _hidden(
    member: Backbone, process: Process, canvas: Tensor, tokens: Tensor, blocks_and_t: tuple[Tensor, Tensor]
) -> Tensor:
    blocks, t = blocks_and_t
    level = t if process.timed else None
    return denoise_sequence(member, process.embed(canvas, member), member.embed(tokens), blocks, (level, None))


def cross_entropies(log_ps: list[Tensor], targets: Tensor, weights: Sequence[float]) -> Tensor:
    """Cross-entropy of one member, or of each mixture of two: log_ps of (N, V) each, targets (N,) to (N, W)."""
    columns = []
    for share in weights:
        parts = [(w, log_p) for w, log_p in zip((1 - share, share), log_ps, strict=False) if w > 0]
        log_p = log_ps[0] if len(log_ps) == 1 else mix([log_p for _, log_p in parts], [w for w, _ in parts])
        columns.append(-log_p.gather(-1, targets[:, None]).squeeze(-1))
    return torch.stack(columns, dim=-1)
