"""What gates are fitted on: two members' predictions of noised text, kept, and the members calibrated first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.gating import Curves
from ssdcli.evaluation.losses import LossSettings, Passage, measure_combinations

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

    def curves(self, calibrations: tuple[Calibration, Calibration]) -> Curves:
        """The losses of the calibrated members' mixtures at all weights."""
        one, other = calibrations
        core, small = self.log_ps
        return Curves.joined(
            [Curves.of(one(core[rows]), other(small[rows]), self.tokens[rows]) for rows in self.rows()]
        )

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
