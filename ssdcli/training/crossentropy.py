"""Cross-entropy of a tied linear head that never holds all logits at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_ROWS = 512  # 512 rows of an 8192-token vocabulary are 8 MB in bf16: they stay in the cache of a CPU


class _HeadCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross-entropies; the gradients are computed chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
        """The sum, with its gradients kept for the backward pass."""
        table_low = table.to(hidden.dtype)
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        learned = table if ctx.needs_input_grad[1] else table[:0]  # a frozen one may be of gigabytes
        grad_table = torch.zeros(learned.shape, dtype=torch.float32, device=table.device)
        for start in range(0, hidden.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            target, weight = targets[rows, None], weights[rows, None]
            logits = (hidden[rows] @ table_low.T).index_fill_(-1, never, -math.inf)
            log_p = logits.log_softmax(-1, dtype=torch.float32)
            total -= (weight * log_p.gather(-1, target)).sum()
            p = log_p.exp_().scatter_add_(-1, target, torch.full_like(weight, -1)).to(hidden.dtype)
            grad_hidden[rows] = (p @ table_low) * weight
            if ctx.needs_input_grad[1]:
                grad_table += p.T @ (hidden[rows] * weight).to(hidden.dtype)
        ctx.save_for_backward(grad_hidden, grad_table.to(table.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The kept gradients, scaled."""
        grad_hidden, grad_table = ctx.saved_tensors
        return (
            grad_hidden * grads[0].to(grad_hidden.dtype),
            grad_table * grads[0].to(grad_table.dtype),
            None,
            None,
            None,
        )


def head_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
    """sum_n weights_n * CE(hidden_n @ table^T, targets_n) in nats, a scalar float32.

    hidden: (N, r); table: (V, r); targets: (N,) int64; weights: (N,) float32; never: ids of logit -inf, not targets.
    """
    total: Tensor = _HeadCrossEntropy.apply(hidden, table, targets, weights, never)  # type: ignore[no-untyped-call]
    return total
