"""Combination rules: from what each member predicts to what the ensemble predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssdcli.engine.ensemble.gate import AnyGate, AverageGate
from ssdcli.engine.sampling.nucleus import entropy, sent

_SUREST = 15.0  # log-odds; with larger ones, float32 rounds the other member's weight to zero
FLOOR = -100.0  # log p in place of -inf, wherever it is multiplied or subtracted


class Rule(Protocol):
    """A way to combine predictions.

    Weights are the engine's encoding of roles (see `Member.signed`): a base's is negative, all others are positive.

    A rule whose result for a token depends on no other token sets `pointwise = True`. One that is meaningless without
    one of its members sets `needs_all = True`: where a member abstains (NaN), so does the ensemble.
    """

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Combine log_ps (..., V), one a running member, by weights that are not zero: (..., V) float32, normalised."""


def mix(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log p = sum_i w_i log p_i, renormalised, weights scaled to sum to one: (..., V) float32.

    A token that one member excludes (-inf) is excluded; where no token is left, the heaviest member decides alone.
    Weights that are not above zero raise ValueError. SSD-2 (Han et al., NAACL 2024).
    """
    return _product(log_ps, _shares(weights))


class _Average:
    """P = sum_i w_i p_i, weights scaled to sum to one.

    A token is excluded (-inf) only where all members exclude it. Weights that are not above zero raise ValueError.
    """

    pointwise = True

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log p: (..., V) float32."""
        combined, *others = [log_p.float() + math.log(w) for log_p, w in zip(log_ps, _shares(weights), strict=True)]
        for share in others:
            combined = log_sum(combined, share)
        return combined


average = _Average()


class _Contrast:
    """Log p = log p_core + a (log p_small - log p_base), renormalised (DExperts, Liu et al., 2021).

    The signs are in the weights: 1 for the core, a for a small member, -a for its base; they are not scaled. A token
    that a member of positive weight excludes (-inf) is excluded; one that only the base excludes is favoured as if the
    base gave it e^-100. Where no token is left, the heaviest member decides alone.
    """

    needs_all = True

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log p: (..., V) float32."""
        bounded = [
            log_p if w > 0 else log_p.nan_to_num(nan=math.nan, neginf=FLOOR)
            for log_p, w in zip(log_ps, weights, strict=True)
        ]
        return _product(bounded, weights)


contrast = _Contrast()


@dataclass(frozen=True)
class Gated:
    """`mix` of two members whose weights at a position also depend on their entropies there.

    The second member's log-odds against the first are those of their weights, plus a linear function of both entropies
    in nats. A member that runs alone decides alone.

    first: the slope in the first member's entropy.
    second: the slope in the second member's.
    """

    first: float
    second: float

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log p of one or two members, by weights above zero (else ValueError): (..., V) float32."""
        if len(log_ps) == 1:
            return mix(log_ps, weights)
        one, other = (log_p.float() for log_p in log_ps)
        own, others = _shares(weights)
        odds = math.log(others / own) + self.first * entropy(one) + self.second * entropy(other)
        share = torch.sigmoid(odds.clamp(-_SUREST, _SUREST))[..., None]
        return _renormalised((1 - share) * one + share * other, torch.where(share > 0.5, other, one))


@dataclass(frozen=True)
class GatedAverage:
    """`average` with the weights that a gate gives at each position, where all of its members predict.

    Elsewhere those that predict share their constant weights.

    gate: of the members in their order.
    """

    gate: AverageGate

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Log p: (..., V) float32."""
        if len(log_ps) < len(self.gate.members):
            return average(log_ps, weights)
        shares = log_shares(self.gate, torch.stack([entropy(log_p) for log_p in log_ps], dim=-1))
        combined, *others = [log_p.float() + shares[..., i : i + 1] for i, log_p in enumerate(log_ps)]
        for share in others:
            combined = log_sum(combined, share)
        return combined


def log_sum(one: Tensor, other: Tensor) -> Tensor:
    """log(exp(one) + exp(other)), to the same bits for a row alone as for one among others.

    torch.logaddexp computes the last numbers of a tensor in another way than the rest, where a processor takes several
    at once.
    """
    away = (one - other).abs_().neg_().nan_to_num_(nan=-math.inf)  # NaN where neither can be
    return away.exp_().log1p_().add_(torch.maximum(one, other))


def log_shares(gate: AverageGate, entropies: Tensor) -> Tensor:
    """The logarithms of the weights that a gate gives to members of these entropies: (..., M) to (..., M)."""
    features = gate_features(entropies)
    rows = torch.tensor([[0.0] * features.shape[-1], *gate.coefficients], dtype=features.dtype)
    coefficients = sent(rows, features.device)
    # Row by row: a matrix product sums in another order for another number of rows.
    scores = torch.stack([(features * row).sum(-1) for row in coefficients], dim=-1)
    return torch.log_softmax(scores, dim=-1)


def gate_features(entropies: Tensor) -> Tensor:
    """What a gate's coefficients multiply: 1, the entropies (..., M), and the inverses of their perplexities."""
    return torch.cat([torch.ones_like(entropies[..., :1]), entropies, (-entropies).exp()], dim=-1)


def gated(gate: AnyGate) -> Rule:
    """The rule that belongs to a gate; the schedules of a `Gate` hold what depends on the noise level."""
    return GatedAverage(gate) if isinstance(gate, AverageGate) else Gated(gate.core, gate.small)


def _shares(weights: Sequence[float]) -> list[float]:
    """The weights scaled to sum to one."""
    if min(weights) <= 0:
        raise ValueError(f"the weights of a mixture must be above zero, not {min(weights):g}")
    total = math.fsum(weights)
    return [w / total for w in weights]


def _product(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log of prod_i p_i^w_i, renormalised, or the heaviest member's where all products are zero: (..., V) float32."""
    if len(log_ps) == 1 and weights[0] == 1:
        return log_ps[0].float()  # bit for bit: a softmax of it would round
    combined, *others = [log_p.float() * w for log_p, w in zip(log_ps, weights, strict=True)]
    for term in others:
        combined += term
    return _renormalised(combined, log_ps[weights.index(max(weights))].float())


def _renormalised(combined: Tensor, heaviest: Tensor) -> Tensor:
    """Of sums of weighted log p, or the heaviest member's log p where nothing is left: (..., V) float32."""
    nothing_left = combined.amax(-1, keepdim=True).isneginf()
    return torch.where(nothing_left, heaviest, torch.log_softmax(combined, dim=-1))
