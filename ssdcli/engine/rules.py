"""Combination rules: from what each member predicts to what the ensemble predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

_FLOOR = -100.0  # log p of a token that a member of negative weight excludes


class Rule(Protocol):
    """A way to combine predictions."""

    def __call__(self, log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """Combine log_ps (..., V), one a running member, by weights that are not zero: (..., V) float32, normalised."""
        ...


def mix(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log p = sum_i w_i log p_i, renormalised, weights scaled to sum to one: (..., V) float32.

    A token that one member excludes (-inf) is excluded by all; where that leaves none, the heaviest member decides
    alone. Weights that are not above zero raise ValueError. SSD-2 (Han et al., NAACL 2024).
    """
    return _product(log_ps, _shares(weights))


def average(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """P = sum_i w_i p_i, weights scaled to sum to one: log p (..., V) float32.

    A token is excluded (-inf) only where all members exclude it. Weights that are not above zero raise ValueError.
    """
    combined, *others = [log_p.float() + math.log(w) for log_p, w in zip(log_ps, _shares(weights), strict=True)]
    for share in others:
        combined = torch.logaddexp(combined, share)
    return combined


def contrast(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log p = log p_core + a (log p_small - log p_base), renormalised: (..., V) float32 (DExperts, Liu et al., 2021).

    The signs are in the weights: 1 for the core, a for a small member, -a for its base; they are not scaled. A token
    that a member of positive weight excludes (-inf) is excluded; one that only the base excludes is favoured as if the
    base gave it e^-100. Where no token is left, the heaviest member decides alone.
    """
    bounded = [
        log_p if w > 0 else log_p.nan_to_num(nan=math.nan, neginf=_FLOOR)
        for log_p, w in zip(log_ps, weights, strict=True)
    ]
    return _product(bounded, weights)


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
    nothing_left = combined.amax(-1, keepdim=True).isneginf()
    heaviest = log_ps[weights.index(max(weights))]
    return torch.where(nothing_left, heaviest.float(), torch.log_softmax(combined, dim=-1))
