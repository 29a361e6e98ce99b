"""Losses of a gap's text with and without what stands to its right, denoised exactly as when a gap is filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.losses import Passage


@dataclass(frozen=True)
class Gap:
    """A stretch of a held-out document that is to be filled.

    document: its place among the passages. before, after: the tokens on both sides. canvas: `length` tokens of text,
    and where there is room, an end of text and the beginning of another document. key: names its noise.
    """

    document: int
    before: Sequence[int]
    canvas: Sequence[int]
    length: int
    after: Sequence[int]
    key: int


@dataclass(frozen=True)
class GapSettings:
    """Gaps of one block of `block` tokens, with `text` tokens in it."""

    block: int
    text: int
    left: int = 96  # tokens that are known on either side, at most
    right: int = 96
    per_document: int = 1
    levels: int = 8  # noise levels of each gap
    seed: int = 0
    batch: int = 16


View = Callable[[Gap], Prompt]  # what a model is shown of a gap


def left_side(gap: Gap) -> Prompt:
    """The text before the gap alone, as when text is continued."""
    return Prompt(gap.before)


def both_sides(gap: Gap) -> Prompt:
    """What a model is shown when it fills a gap."""
    return Prompt(gap.before, gap.after, len(gap.canvas))


@dataclass(frozen=True)
class GapLosses:
    """Summed losses of D documents' gaps in each of W views at each of K noise levels, in nats.

    levels: (K,). sums: (D, W, K). tokens: (D,), those of the gaps' text.
    """

    levels: np.ndarray
    sums: np.ndarray
    tokens: np.ndarray

    def above(self, level: float) -> GapLosses:
        """The same at the higher noise levels alone."""
        kept = self.levels > level
        return replace(self, levels=self.levels[kept], sums=self.sums[..., kept])

    def loss(self, view: int) -> tuple[float, float]:
        """Mean over the levels in nats per token, and its standard error."""
        return self._mean(self.sums[:, view].mean(-1))

    def gain(self, view: int, other: int) -> tuple[float, float]:
        """What `view` saves against `other` in nats per token, and its standard error, paired by document."""
        return self._mean((self.sums[:, other] - self.sums[:, view]).mean(-1))

    def _mean(self, sums: np.ndarray) -> tuple[float, float]:
        """A ratio estimator, documents being the independent draws."""
        mean = sums.sum() / self.tokens.sum()
        return float(mean), float(np.sqrt(((sums - mean * self.tokens) ** 2).sum()) / self.tokens.sum())


def choose_gaps(passages: Sequence[Passage], settings: GapSettings) -> list[Gap]:
    """Gaps at random places of every document that is long enough to have a token on each side of them."""
    return [
        _gap(document, passages, fold(settings.seed, document, number), settings)
        for document, passage in enumerate(passages)
        for number in range(settings.per_document)
        if len(passage.tokens) >= settings.text + 2
    ]


def _gap(document: int, passages: Sequence[Passage], key: int, settings: GapSettings) -> Gap:
    tokens = [int(token) for token in passages[document].tokens]
    start = 1 + int(float(CounterNoise([key]).uniform(1)) * (len(tokens) - settings.text - 1))
    stop = start + settings.text
    other = (int(token) for token in cycle(passages[(document + 1) % len(passages)].tokens))
    return Gap(
        document=document,
        before=tokens[max(0, start - settings.left) : start],
        canvas=[*tokens[start:stop], *islice(other, settings.block - settings.text)],
        length=settings.text,
        after=tokens[stop : stop + settings.right],
        key=key,
    )


def measure_gaps(denoiser: Denoiser, gaps: Sequence[Gap], views: Sequence[View], settings: GapSettings) -> GapLosses:
    """Measure the loss of the gaps' text in several views of it, on the same noised canvases.

    What stands behind the text on a canvas does not count. Self-conditioning is off.
    """
    offset = float(CounterNoise([settings.seed]).uniform(1))
    levels = (np.arange(settings.levels) + offset) / settings.levels
    documents, rows = np.unique([gap.document for gap in gaps], return_inverse=True)
    sums = np.zeros((len(documents), len(views), settings.levels))
    for first in range(0, len(gaps), settings.batch):
        batch = slice(first, first + settings.batch)
        losses = _batch_losses(denoiser, gaps[batch], views, levels.tolist())
        np.add.at(sums, rows[batch], losses.cpu().numpy())
    return GapLosses(levels, sums, np.bincount(rows, [gap.length for gap in gaps]))


@torch.no_grad()
def _batch_losses(denoiser: Denoiser, gaps: Sequence[Gap], views: Sequence[View], levels: Sequence[float]) -> Tensor:
    """Summed loss of each gap in each view at each level: (B, W, K)."""
    process, device = denoiser.process, denoiser.backbone.device
    tokens = torch.tensor([gap.canvas for gap in gaps], device=device)
    lengths = torch.tensor([[gap.length] for gap in gaps], device=device)
    scored = torch.arange(tokens.shape[1], device=device) < lengths
    prefixes = [denoiser.start([view(gap) for gap in gaps]) for view in views]
    losses = torch.zeros(len(gaps), len(views), len(levels), device=device)
    for place, level in enumerate(levels):
        t = torch.full(tokens.shape, level, device=device)
        canvas = process.corrupt(tokens, t, GeneratorNoise([fold(gap.key, place) for gap in gaps], device))
        due = process.loss_weights(canvas, t) * scored
        for view, prefix in enumerate(prefixes):
            log_p = denoiser.denoise(canvas, level, None, prefix)
            losses[:, view, place] = -(log_p.gather(-1, tokens[..., None]).squeeze(-1) * due).sum(1)
    return losses
