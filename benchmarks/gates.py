"""Gates: the small member's weight as a function of what both members predict, and members that are calibrated first.

The mixture of two predictions at one position loses Z(w) - (1 - w) log p_core - w log p_small of the clean token, where
Z is a convex function of the small member's weight w alone. Its values and slopes at a few weights, which a sweep over
weights has at hand, give the loss at any weight: a gate is fitted without looking at the vocabulary again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.process import Process
from ssdcli.engine.rules import mix
from ssdcli.engine.schedules import Constant
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.losses import LossSettings, Passage, measure_combinations
from ssdcli.evaluation.sweep import GRID

FEATURES = ("core's entropy", "small's entropy", "core's surest", "small's surest", "KL", "level")
PRIOR = 0.3  # standard deviation of a bias, in nats

_FLOOR = -100.0  # log p of a token that is excluded
_CHUNK = 512  # positions whose predictions are held in float32
_NEWTON, _SCALING = 6, 10  # rounds until temperatures and biases stay


@dataclass(frozen=True)
class Predictions:
    """What two members predict at N positions, without self-conditioning.

    log_ps: core's and small's, (N, V) float16 each. tokens: (N,) int64, the clean ones. levels: (N,) float32. due: (N,)
    float64, the objective's weights. documents: (N,) int64.
    """

    log_ps: tuple[Tensor, Tensor]
    tokens: Tensor
    levels: Tensor
    due: Tensor
    documents: Tensor

    def rows(self) -> tuple[Tensor, ...]:
        """The positions a chunk at a time."""
        chunks: tuple[Tensor, ...] = torch.arange(len(self.tokens)).split(_CHUNK)
        return chunks

    def features(self) -> Tensor:
        """FEATURES of all positions: (N, 6) float64; entropies, log p of the likeliest tokens, KL(small || core), t."""
        columns = torch.cat([_features(*(log_p[rows].float() for log_p in self.log_ps)) for rows in self.rows()])
        return torch.cat([columns, self.levels[:, None]], dim=1).double()


def _features(core: Tensor, small: Tensor) -> Tensor:
    p, q = core.exp(), small.exp()
    entropies = -(p * core).sum(-1), -(q * small).sum(-1)
    return torch.stack([*entropies, core.amax(-1), small.amax(-1), (q * (small - core)).sum(-1)], dim=1)


class _Recorder:
    """A score that keeps a random share of the predictions it is shown."""

    def __init__(self, process: Process, share: float, seed: int) -> None:
        self.process, self.share = process, share
        self.generator = torch.Generator().manual_seed(seed)
        self.document = 0
        self.kept: list[tuple[Tensor, ...]] = []

    def __call__(self, combined: Combined, positions: Positions) -> Tensor:
        """No loss at all: (N,) zeros."""
        count = len(positions.tokens)
        chosen = (torch.rand(count, generator=self.generator) < self.share).nonzero()[:, 0]
        here = positions.rows(chosen)
        due = self.process.loss_weights(here.shown, here.levels).double()
        log_ps = [log_p[chosen].float().clamp(min=_FLOOR).half() for log_p in combined.log_ps]
        self.kept.append((*log_ps, here.tokens, here.levels, due, torch.full_like(here.tokens, self.document)))
        return torch.zeros(count)


def record(
    members: tuple[Backbone, Backbone], process: Process, passages: Sequence[Passage], settings: LossSettings, most: int
) -> Predictions:
    """Run core and small on noised held-out text, and keep `most` positions or so of all, drawn evenly."""
    total = settings.repeats * sum(sum(passage.counted) for passage in passages)
    recorder = _Recorder(process, min(1.0, most / total), settings.seed)
    both = Combination(mix, (Constant(0.5), Constant(0.5)), recorder)
    for document, passage in enumerate(passages):
        recorder.document = document
        measure_combinations(members, process, [replace(passage, noise=document)], [both], settings)
    core, small, tokens, levels, due, documents = (torch.cat(column) for column in zip(*recorder.kept, strict=True))
    return Predictions((core, small), tokens, levels, due, documents)


# Calibration of a member


@dataclass(frozen=True)
class Calibration:
    """What is done to a member's log p: divided by a temperature, a bias (V,) added, renormalised."""

    temperature: float
    bias: Tensor

    def __call__(self, log_p: Tensor) -> Tensor:
        """Log p (N, V) to (N, V) float32."""
        return torch.log_softmax(log_p.float() / self.temperature + self.bias, dim=-1)


def untouched(vocabulary: int) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration(1.0, torch.zeros(vocabulary))


def heated(predictions: Predictions, member: int, chosen: Tensor) -> Calibration:
    """The temperature at which a member's cross-entropy of the chosen positions is least (Guo et al., 2017)."""
    log_p, inverse = predictions.log_ps[member], 1.0
    for _ in range(_NEWTON):
        slope, curvature = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for rows in chosen.split(_CHUNK):
            said, due = log_p[rows].float(), predictions.due[rows]
            p = torch.softmax(said * inverse, dim=-1)
            mean = (p * said).sum(-1)
            slope += (due * (mean - _own(said, predictions.tokens[rows]))).sum()
            curvature += (due * ((p * said * said).sum(-1) - mean**2)).sum()
        inverse -= float(slope / curvature)
    return Calibration(1 / inverse, torch.zeros(log_p.shape[1]))


def biased(predictions: Predictions, member: int, chosen: Tensor, start: Calibration) -> Calibration:
    """One bias a token besides (after LITCAB, Liu et al., 2024), a priori normal about 0: rare tokens keep theirs.

    Newton's method with the diagonal of the Hessian: what is expected of a token is brought to what is seen of it.
    """
    log_p, bias = predictions.log_ps[member], start.bias.double()
    due = predictions.due[chosen]
    seen = torch.zeros_like(bias).index_add_(0, predictions.tokens[chosen], due)
    for _ in range(_SCALING):
        now, expected = Calibration(start.temperature, bias.float()), torch.zeros_like(bias)
        for rows in chosen.split(_CHUNK):
            expected += (predictions.due[rows].float() @ now(log_p[rows]).exp()).double()
        bias -= (expected - seen + bias / PRIOR**2) / (expected + 1 / PRIOR**2)
    return Calibration(start.temperature, bias.float())


def _own(values: Tensor, tokens: Tensor) -> Tensor:
    """Of one token at each position: values (N, V), tokens (N,) to (N,)."""
    return values.gather(-1, tokens[:, None])[:, 0]


# Losses at any weight


@dataclass(frozen=True)
class Curves:
    """Each position's loss as a function of the small member's weight: values and slopes over GRID, (N, 11) each."""

    nats: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, predictions: Predictions, calibrations: tuple[Calibration, Calibration]) -> Curves:
        """Mix the calibrated members at every weight of the grid."""
        parts = [_curves(predictions, calibrations, rows) for rows in predictions.rows()]
        nats, slopes = (torch.cat(column).double() for column in zip(*parts, strict=True))
        return cls(nats, slopes)

    def rows(self, chosen: Tensor) -> Curves:
        """Those of some positions."""
        return Curves(self.nats[chosen], self.slopes[chosen])

    def at(self, weights: Tensor) -> Tensor:
        """Losses at a weight for each position, (N,) in [0, 1]: (N,), by cubic Hermite interpolation."""
        step = 1 / (len(GRID) - 1)
        first = (weights / step).long().clamp(0, len(GRID) - 2)
        u = weights / step - first
        v = 1 - u
        left, right = ((self.nats.gather(1, k)[:, 0], self.slopes.gather(1, k)[:, 0] * step) for k in _pair(first))
        ends = v * v * (1 + 2 * u) * left[0] + u * u * (1 + 2 * v) * right[0]
        return ends + u * v * (v * left[1] - u * right[1])


def _pair(first: Tensor) -> tuple[Tensor, Tensor]:
    return first[:, None], first[:, None] + 1


def _curves(
    predictions: Predictions, calibrations: tuple[Calibration, Calibration], rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Values and slopes of some positions' losses: (n, 11) each."""
    core, small = (c(log_p[rows]) for c, log_p in zip(calibrations, predictions.log_ps, strict=True))
    tokens, apart = predictions.tokens[rows], small - core
    nats, slopes = [], []
    for weight in GRID:
        log_p = torch.log_softmax(torch.lerp(core, small, weight), dim=-1)
        nats.append(-_own(log_p, tokens))
        slopes.append((log_p.exp_() * apart).sum(-1) - _own(apart, tokens))
    return torch.stack(nats, dim=1), torch.stack(slopes, dim=1)


def fit(curves: Curves, columns: Tensor, due: Tensor) -> Tensor:
    """The coefficients (K,) of columns (N, K) with the least loss at the weights sigmoid(columns @ coefficients)."""
    coefficients = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (curves.at(torch.sigmoid(columns @ coefficients)) * due).sum() / due.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return coefficients.detach()
