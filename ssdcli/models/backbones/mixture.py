"""Mixtures of a few rows of an embedding table and of all the others evenly."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weighted_sums(table: Tensor, rows: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """Weighted sums of a table's rows, what is left of 1 being spread evenly over all tokens: (B, L, S) to (B, L, r).

    table: (n, r). rows: int64. weights: float32, of any sign. sizes: (n,), how many tokens have each row.
    """
    bags, shares = rows.flatten(0, 1), weights.flatten(0, 1).to(table.dtype)
    named = nn.functional.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)
    left = (1 - weights.sum(-1, keepdim=True)).to(table.dtype)
    # A product: on a CPU, the mean of columns of bfloat16 takes ten times as long.
    mean = sizes[None] @ table / sizes.sum(dtype=torch.float32)
    sums: Tensor = named.unflatten(0, rows.shape[:2]) + left * mean
    return sums
