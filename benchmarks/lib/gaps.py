"""Denoising losses of gaps in held-out documents, under models that are shown different parts of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.schedules import Constant, Schedule
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.combinations import Combination, Positions, combined_losses
from ssdcli.evaluation.scored_text import ScoredText

# Gaps


@dataclass(frozen=True)
class Gap:
    """A part of a held-out document that is to be filled.

    document: its place among the documents.
    before, after: the tokens on both sides.
    canvas: `length` tokens of text and, where there is room, an end of text and the beginning of another document.
    key: names its noise.
    """

    document: int
    before: Sequence[int]
    canvas: Sequence[int]
    length: int
    after: Sequence[int]
    key: int


@dataclass(frozen=True)
class GapSettings:
    """Gaps of one block of `block` tokens, `text` of which are text.

    left, right: tokens on either side that are known, at most.
    levels: noise levels at which each gap is measured.
    """

    block: int
    text: int
    left: int = 96
    right: int = 96
    per_document: int = 1
    levels: int = 8
    seed: int = 0
    batch: int = 16


def choose_gaps(scored_texts: Sequence[ScoredText], settings: GapSettings) -> list[Gap]:
    """Gaps at random places of every document that is long enough to have a token on each side of them."""
    return [
        _gap(document, scored_texts, fold(settings.seed, document, number), settings)
        for document, scored_text in enumerate(scored_texts)
        for number in range(settings.per_document)
        if len(scored_text.tokens) >= settings.text + 2
    ]


def _gap(document: int, scored_texts: Sequence[ScoredText], key: int, settings: GapSettings) -> Gap:
    tokens = [int(token) for token in scored_texts[document].tokens]
    start = 1 + int(float(CounterNoise([key]).uniform(1)) * (len(tokens) - settings.text - 1))
    stop = start + settings.text
    other = (int(token) for token in cycle(scored_texts[(document + 1) % len(scored_texts)].tokens))
    return Gap(
        document=document,
        before=tokens[max(0, start - settings.left) : start],
        canvas=[*tokens[start:stop], *islice(other, settings.block - settings.text)],
        length=settings.text,
        after=tokens[stop : stop + settings.right],
        key=key,
    )


# Models and what they are shown

View = Callable[[Gap], Prompt]


def left_side(gap: Gap) -> Prompt:
    """The text before the gap alone, as when text is continued."""
    return Prompt(gap.before)


@dataclass(frozen=True)
class Viewer:
    """A model, and what it is shown of a gap."""

    denoiser: Denoiser
    view: View


def combined(viewers: Iterable[str], schedules: Mapping[str, Schedule], rule: Rule = mix) -> Combination:
    """Some of the viewers with their schedules, combined by a rule; the others do not run."""
    return Combination(rule, tuple(schedules.get(name, Constant(0.0)) for name in viewers))


def steady(viewers: Iterable[str], weights: Mapping[str, float], rule: Rule = mix) -> Combination:
    """The same with weights that do not depend on the noise level."""
    return combined(viewers, {name: Constant(weight) for name, weight in weights.items()}, rule)


# Losses


@dataclass(frozen=True)
class GapLosses:
    """Summed losses of D documents' gaps under W combinations at K noise levels.

    levels: (K,).
    sums: (D, W, K) in nats.
    tokens: (D,), those of the gaps' text.
    """

    levels: np.ndarray
    sums: np.ndarray
    tokens: np.ndarray

    def columns(self) -> Columns:
        """The means over the noise levels."""
        return Columns(self.sums.mean(-1), self.tokens)


def measure(
    viewers: Sequence[Viewer], combinations: Sequence[Combination], gaps: Sequence[Gap], settings: GapSettings
) -> GapLosses:
    """Measure the loss of the gaps' text under combinations of viewers, all on the same noised canvases.

    What follows the text on a canvas does not count. Self-conditioning is off.
    """
    offset = float(CounterNoise([settings.seed]).uniform(1))
    levels = (np.arange(settings.levels) + offset) / settings.levels
    documents, rows = np.unique([gap.document for gap in gaps], return_inverse=True)
    sums = np.zeros((len(documents), len(combinations), settings.levels))
    for first in range(0, len(gaps), settings.batch):
        batch = slice(first, first + settings.batch)
        losses = _batch_losses(viewers, combinations, gaps[batch], levels.tolist())
        np.add.at(sums, rows[batch], losses.cpu().numpy())
    return GapLosses(levels, sums, np.bincount(rows, [gap.length for gap in gaps]))


@torch.no_grad()
def _batch_losses(
    viewers: Sequence[Viewer], combinations: Sequence[Combination], gaps: Sequence[Gap], levels: Sequence[float]
) -> Tensor:
    """Summed loss of each gap under each combination at each level: (B, W, K)."""
    process, device = viewers[0].denoiser.process, viewers[0].denoiser.backbone.device
    tokens = torch.tensor([gap.canvas for gap in gaps], device=device)
    lengths = torch.tensor([[gap.length] for gap in gaps], device=device)
    scored = torch.arange(tokens.shape[1], device=device) < lengths
    prefixes = [viewer.denoiser.start([viewer.view(gap) for gap in gaps]) for viewer in viewers]
    losses = torch.zeros(len(gaps), len(combinations), len(levels), device=device)
    for place, level in enumerate(levels):
        t = torch.full(tokens.shape, level, device=device)
        canvas = process.corrupt(tokens, t, GeneratorNoise([fold(gap.key, place) for gap in gaps], device))
        due = process.loss_weights(canvas, t) * scored
        counts = due > 0
        log_ps = [
            viewer.denoiser.denoise(canvas, level, None, prefix)[counts]
            for viewer, prefix in zip(viewers, prefixes, strict=True)
        ]
        positions = Positions(tokens[counts], t[counts], process.tokens(canvas)[counts])
        lost = torch.zeros(*tokens.shape, len(combinations), device=device)
        lost[counts] = combined_losses(log_ps, positions, combinations) * due[counts][:, None]
        losses[..., place] = lost.sum(1)
    return losses
