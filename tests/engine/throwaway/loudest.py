"""A rule in one file: each token has the highest probability that any member gives it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def loudest(log_ps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Log p ~ max_i (log p_i + log w_i): (..., V) float32."""
    scores = [log_p.float() + torch.tensor(w).log() for log_p, w in zip(log_ps, weights, strict=True)]
    return torch.log_softmax(torch.stack(scores).amax(0), dim=-1)
