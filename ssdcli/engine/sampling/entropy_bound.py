"""Entropy-bounded unmasking (EB-Sampler, Ben-Hamu et al., 2025): positions that are nearly independent go together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.engine.sampling.unmasking import Unmasking


def within_bound(entropies: Tensor, bound: float) -> Tensor:
    """The positions of lowest entropy while their sum of entropies, less the largest, stays within a bound in nats.

    Drawing positions S at once takes the product of their marginals for their joint distribution, an error of
    KL = sum_S H(x_i) - H(x_S) <= sum_S H(x_i) - max_S H(x_i), since H(x_S) >= max_S H(x_i). So positions within a small
    bound are nearly independent.

    entropies: (B, L), infinite for positions that take no part. Returns (B, L) bool, one position a row at least.
    """
    ordered, places = entropies.sort(dim=-1, stable=True)
    # In rising order the largest of a prefix is its last, so that the sum less the largest is the sum before it.
    chosen = ordered.cumsum(-1) - ordered <= bound
    return torch.zeros_like(chosen).scatter(-1, places, chosen)


@dataclass(frozen=True)
class EntropyBound(Unmasking):
    """The positions of lowest entropy within a bound in nats, see `within_bound`."""

    bound: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; those within the bound."""
        doubt = entropy(prediction.log_p)
        return doubt, within_bound(doubt.masked_fill(~hidden, math.inf), self.bound).sum(-1)
