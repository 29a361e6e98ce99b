"""Cross-entropy of a tied linear head to a mixture of the text and a teacher's predictions, chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ROWS = 512  # as many rows of a teacher's predictions are held at once

Expected = Callable[[slice], Tensor]  # some of N rows to what a teacher expects there: (n, V) float32, of sum 1


@dataclass(frozen=True)
class Lesson:
    """What is to be learned at N places: their tokens (N,) int64, and what a teacher expects there.

    share: the teacher's part in the loss, 0 for the text alone, 1 for the teacher alone.
    """

    tokens: Tensor
    expected: Expected
    share: float


class _DistilledCrossEntropy(torch.autograd.Function):
    """Weighted sums of cross-entropies; the gradients are computed chunk by chunk in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, lesson: Lesson, weights: Tensor, never: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sums to the mixture and to the text, with the gradients of the first kept for the backward pass."""
        table_low = table.to(hidden.dtype)
        mixed, plain = torch.zeros((), device=hidden.device), torch.zeros((), device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        learned = table if ctx.needs_input_grad[1] else table[:0]  # a frozen one may be of gigabytes
        grad_table = torch.zeros(learned.shape, dtype=torch.float32, device=table.device)
        for start in range(0, hidden.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            target, weight = lesson.tokens[rows, None], weights[rows, None]
            goal = lesson.expected(rows).mul_(lesson.share)
            goal.scatter_add_(-1, target, torch.full_like(target, 1 - lesson.share, dtype=goal.dtype))
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

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The kept gradients, scaled."""
        grad_hidden, grad_table = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_hidden * scale.to(grad_hidden.dtype),
            grad_table * scale.to(grad_table.dtype),
            None,
            None,
            None,
        )


def distilled_cross_entropy(
    hidden: Tensor, table: Tensor, lesson: Lesson, weights: Tensor, never: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums, in nats, of weighted cross-entropies to a lesson's goals and, without gradient, to its tokens.

    A goal is (1 - a) onehot(token) + a q, a being the teacher's share and q what it expects: up to a constant, the
    first sum is that of (1 - a) CE(token) + a KL(q || p) (Hinton et al., 2015, at temperature 1). hidden: (N, r);
    table: (V, r); weights: (N,) float32; never: ids of logit -inf, which are no tokens, q being 0 there.
    """
    sums: tuple[Tensor, Tensor] = _DistilledCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, table, lesson, weights, never
    )
    return sums
