"""Losses of blends of voices, each of which may see another text before the same noised canvases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.schedules import Constant, Schedule, sharing
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold
from ssdcli.evaluation.gaps import Gap, GapSettings, View


@dataclass(frozen=True)
class Voice:
    """A model, and what it is shown of a gap."""

    denoiser: Denoiser
    view: View


@dataclass(frozen=True)
class Blend:
    """Voices by name with their weights by the noise level, which are never zero, and the rule that combines them."""

    schedules: Mapping[str, Schedule]
    rule: Rule = mix


def steady(weights: Mapping[str, float], rule: Rule = mix) -> Blend:
    """Voices that weigh the same at every level."""
    return Blend({name: Constant(weight) for name, weight in weights.items()}, rule)


def alone(name: str) -> Blend:
    """A voice by itself."""
    return steady({name: 1.0})


def shared(pair: tuple[str, str], weight: float, process: str, rule: Rule = mix) -> Blend:
    """A core and another voice, which has the weight, as `ssd generate` combines them unless it is told otherwise."""
    return Blend(dict(zip(pair, sharing(weight, process), strict=True)), rule)


@torch.no_grad()
def measure_blends(
    voices: Mapping[str, Voice], blends: Sequence[Blend], gaps: Sequence[Gap], settings: GapSettings
) -> Columns:
    """Denoising losses of the gaps' text under each blend, on canvases noised alike for all.

    As in `measure_gaps`, what stands behind the text on a canvas does not count, and self-conditioning is off.
    """
    offset = float(CounterNoise([settings.seed]).uniform(1))
    levels = ((np.arange(settings.levels) + offset) / settings.levels).tolist()
    documents, rows = np.unique([gap.document for gap in gaps], return_inverse=True)
    sums = np.zeros((len(documents), len(blends)))
    for first in range(0, len(gaps), settings.batch):
        batch = slice(first, first + settings.batch)
        np.add.at(sums, rows[batch], _batch_losses(voices, blends, gaps[batch], levels).numpy() / len(levels))
    return Columns(sums, np.bincount(rows, [gap.length for gap in gaps]))


def _batch_losses(
    voices: Mapping[str, Voice], blends: Sequence[Blend], gaps: Sequence[Gap], levels: Sequence[float]
) -> Tensor:
    """Losses of each gap under each blend, summed over its tokens and the levels: (B, W)."""
    process = next(iter(voices.values())).denoiser.process
    tokens = torch.tensor([gap.canvas for gap in gaps])
    scored = torch.arange(tokens.shape[1]) < torch.tensor([[gap.length] for gap in gaps])
    prefixes = {name: voice.denoiser.start([voice.view(gap) for gap in gaps]) for name, voice in voices.items()}
    losses = torch.zeros(len(gaps), len(blends))
    for place, level in enumerate(levels):
        t = torch.full(tokens.shape, level)
        canvas = process.corrupt(tokens, t, GeneratorNoise([fold(gap.key, place) for gap in gaps]))
        due = process.loss_weights(canvas, t) * scored
        counts = due > 0
        said = {
            name: voice.denoiser.denoise(canvas, level, None, prefixes[name])[counts] for name, voice in voices.items()
        }
        for column, blend in enumerate(blends):
            weights = [schedule(level) for schedule in blend.schedules.values()]
            log_p = blend.rule([said[name] for name in blend.schedules], weights)
            lost = torch.zeros_like(due)
            lost[counts] = -log_p.gather(-1, tokens[counts][:, None]).squeeze(-1)
            losses[:, column] += (lost * due).sum(1)
    return losses
