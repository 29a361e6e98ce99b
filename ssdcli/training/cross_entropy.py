"""Cross-entropy of a tied linear head, to tokens or to a teacher's predictions, without holding all logits at once.

The logits of a step would be the largest tensor of a training: (N, V) for N scored positions and V tokens. Both losses
here go over the positions in chunks, and since the loss is the last node of the graph, its gradient is computed in the
forward pass, while a chunk's probabilities p are at hand. With logits z = h W^T and a target distribution q,

    CE(q, p) = logsumexp(z) - sum_v q_v z_v,    dCE/dz = p - q,    dCE/dh = (p - q) W,    dCE/dW = (p - q)^T h.

The backward pass only scales what was kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS = 512  # 512 rows of an 8,192-token vocabulary are 8 MB in bf16, which stay in a CPU's cache

Expected = Callable[[slice], Tensor]


@dataclass(frozen=True)
class SoftTargets:
    """What is to be learned at N positions: the text's tokens, and what a teacher predicts there.

    tokens: (N,) int64.
    expected: a slice of the N positions to the teacher's probabilities (n, V) float32.
    share: the teacher's part in the loss; 0 is the text alone, 1 the teacher alone.
    """

    tokens: Tensor
    expected: Expected
    share: float


def head_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
    """The sum over n of weights_n * CE(hidden_n @ table^T, targets_n) in nats, a scalar float32.

    hidden: (N, r).
    table: (V, r).
    targets: (N,) int64.
    weights: (N,) float32.
    never: ids whose logits are -inf; no target is among them.
    """
    total: Tensor = _HeadCrossEntropy.apply(hidden, table, targets, weights, never)  # type: ignore[no-untyped-call]
    return total


def distilled_cross_entropy(
    hidden: Tensor, table: Tensor, targets: SoftTargets, weights: Tensor, never: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted cross-entropies, in nats, to the targets' mixture and, without a gradient, to their tokens.

    The mixture is (1 - a) onehot(token) + a q, where a is the teacher's share and q its prediction. Up to a constant,
    the first sum is that of (1 - a) CE(token) + a KL(q || p) (Hinton et al., 2015, at temperature 1).

    hidden: (N, r).
    table: (V, r).
    weights: (N,) float32.
    never: ids whose logits are -inf; no token is among them, and q is 0 there.
    """
    sums: tuple[Tensor, Tensor] = _DistilledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, table, targets, weights, never
    )
    return sums


class _Kept(torch.autograd.Function):
    """A function of hidden states, table, targets, weights and never whose forward pass keeps its gradients."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Scale the gradients that were kept."""
        hidden, table = (kept * grads[0].to(kept.dtype) for kept in ctx.saved_tensors)
        return hidden, table, None, None, None


class _HeadCrossEntropy(_Kept):
    """The weighted sum of cross-entropies to tokens."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
        """The sum; its gradients are kept for the backward pass."""
        table_low = table.to(hidden.dtype)
        total = torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        learned = table if ctx.needs_input_grad[1] else table[:0]  # the gradient of a frozen table could be gigabytes
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


class _DistilledCrossEntropy(_Kept):
    """The weighted sums of cross-entropies to a mixture and to tokens."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: SoftTargets, weights: Tensor, never: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both sums; the gradients of the first are kept for the backward pass."""
        table_low = table.to(hidden.dtype)
        mixed, plain = torch.zeros((), device=hidden.device), torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        learned = table if ctx.needs_input_grad[1] else table[:0]  # the gradient of a frozen table could be gigabytes
        grad_table = torch.zeros(learned.shape, dtype=torch.float32, device=table.device)
        for start in range(0, hidden.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            target, weight = targets.tokens[rows, None], weights[rows, None]
            goal = targets.expected(rows).mul_(targets.share)
            goal.scatter_add_(-1, target, torch.full_like(target, 1 - targets.share, dtype=goal.dtype))
            logits = (hidden[rows] @ table_low.T).float()
            reached = torch.cat([(goal * logits).sum(-1, keepdim=True), logits.gather(-1, target)], dim=-1)
            log_norm = logits.index_fill_(-1, never, -math.inf).logsumexp(-1, keepdim=True)
            sums = (weight * (log_norm - reached)).sum(0)
            mixed, plain = mixed + sums[0], plain + sums[1]
            error = logits.sub_(log_norm).exp_().sub_(goal).mul_(weight).to(hidden.dtype)
            grad_hidden[rows] = error @ table_low
            if ctx.needs_input_grad[1]:
                grad_table += error.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_table.to(table.dtype))
        ctx.mark_non_differentiable(plain)
        return mixed, plain
