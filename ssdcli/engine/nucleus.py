"""Vocabulary-sized operations: nucleus sampling without a sort, and the entropy of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Picker:
    """How a token is drawn from log p: temperature, then the nucleus of mass top-p (Holtzman et al., 2020)."""

    temperature: float = 1.0
    top_p: float = 1.0

    def probabilities(self, log_p: Tensor) -> Tensor:
        """The distribution that tokens are drawn from: (..., V) float32, zero outside the nucleus, unnormalised."""
        if self.temperature == 0:
            return torch.zeros_like(log_p, dtype=torch.float32).scatter_(-1, log_p.argmax(-1, keepdim=True), 1.0)
        p = torch.softmax(log_p.float() / self.temperature, dim=-1)
        return p if self.top_p >= 1 else keep_nucleus(p, max(self.top_p, 1e-30))

    def draw(self, log_p: Tensor, uniform: Tensor) -> Tensor:
        """Draw one token a position: log_p (..., V), uniform (...) in (0, 1); returns (...) int64."""
        return draw(self.probabilities(log_p), uniform)


def keep_nucleus(p: Tensor, top_p: float) -> Tensor:
    """Zero every token whose strictly likelier tokens already hold a mass of at least `top_p`.

    p: (..., V) float32, summing to one. Positive floats are ordered as their bit patterns are, so that the smallest
    kept probability is found exactly by 31 halvings, each one pass over V, where a sort would need many.
    """
    bits = p.contiguous().view(torch.int32)
    low = torch.full_like(bits[..., :1], -1)  # fails: the mass above it is too much (or it is below every value)
    high = torch.full_like(low, 0x7F800000)  # holds: nothing is above infinity
    for _ in range(31):
        middle = low + (high - low) // 2
        holds = torch.where(bits > middle, p, 0).sum(-1, keepdim=True) < top_p
        high, low = torch.where(holds, middle, high), torch.where(holds, low, middle)
    return torch.where(bits >= high, p, 0)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index by inverting the cumulative sum: weights (..., V) non-negative, uniform (...) in (0, 1)."""
    cumulative = weights.cumsum(-1)
    # A weight of zero has an empty interval: searchsorted on the right side steps over it.
    target = uniform.unsqueeze(-1) * cumulative[..., -1:]
    index = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1)
    return torch.minimum(index, last)


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats: log_p (..., V) normalised; returns (...)."""
    return -torch.where(log_p.isneginf(), 0, log_p.exp() * log_p).sum(-1)
