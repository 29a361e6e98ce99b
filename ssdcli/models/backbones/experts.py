"""Mixtures of experts whose arithmetic for a token does not depend on the others that go to the same expert."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

IN_FOURS = "grouped_mm_in_fours"  # what `set_experts_implementation` is told

_FOUR = 4


def _in_fours(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The experts' weighted sums for tokens (N, H), of whose experts (N, k) are the index: (N, H).

    A matrix product on a CPU rounds the last rows differently where they are not a multiple of four, so every expert's
    tokens are filled up to one. Fillers that no expert needs go to one that is not there, and are left out.
    """
    count = experts.num_experts
    pairs, chosen = hidden.repeat_interleave(index.shape[1], dim=0), index.flatten()
    lacking = -torch.bincount(chosen, minlength=count) % _FOUR
    places, numbers = torch.arange(_FOUR - 1, device=index.device), torch.arange(count, device=index.device)
    fillers = torch.where(places < lacking[:, None], numbers[:, None], count).flatten()
    said = grouped_mm_experts_forward(
        experts,
        torch.cat([pairs, pairs.new_zeros(len(fillers), pairs.shape[1])]),
        torch.cat([chosen, fillers])[:, None],
        torch.cat([weights.flatten(), weights.new_zeros(len(fillers))])[:, None],
    )
    return said[: len(pairs)].view(*index.shape, -1).sum(1)


ALL_EXPERTS_FUNCTIONS.register(IN_FOURS, _in_fours)
