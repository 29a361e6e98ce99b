from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssdcli.training.cross_entropy import SoftTargets, distilled_cross_entropy, head_cross_entropy

N, V, R = 1100, 40, 8  # more rows than are held at once
NEVER = torch.tensor([3, 7])


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, table, tokens and weights, a tenth of which are zero."""
    draws = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, R, generator=draws, requires_grad=True)
    table = torch.randn(V, R, generator=draws, requires_grad=True)
    tokens = torch.randint(8, V, (N,), generator=draws)
    return hidden, table, tokens, torch.rand(N, generator=draws) * (torch.rand(N, generator=draws) > 0.1)


def expectations(seed: int = 1) -> Tensor:
    scores = 2 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))
    return scores.index_fill(-1, NEVER, -torch.inf).softmax(-1)


def dense(share: float, q: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The formula with all logits at once: (1 - a) CE + a KL(q || p), CE, and the gradients of the first."""
    hidden, table, tokens, weights = drawn()
    log_p = (hidden @ table.T).index_fill(-1, NEVER, -torch.inf).log_softmax(-1)
    plain = (weights * -log_p.gather(-1, tokens[:, None]).squeeze(-1)).sum()
    log_p = log_p.index_fill(-1, NEVER, 0)
    divergence = (weights[:, None] * (torch.xlogy(q, q) - q * log_p)).sum()
    total = (1 - share) * plain + share * divergence
    return total.detach(), plain.detach(), list(torch.autograd.grad(total, (hidden, table)))


def chunked(share: float, q: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    hidden, table, tokens, weights = drawn()
    targets = SoftTargets(tokens, lambda rows: q[rows].clone(), share)
    mixed, plain = distilled_cross_entropy(hidden, table, targets, weights, NEVER)
    return mixed.detach(), plain, list(torch.autograd.grad(mixed, (hidden, table)))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_value_and_gradients_are_those_of_the_cross_entropy_and_the_divergence(share):
    q = expectations()
    total, plain, gradients = dense(share, q)
    mixed, shown, found = chunked(share, q)
    entropy = -share * (drawn()[3][:, None] * torch.xlogy(q, q)).sum()
    torch.testing.assert_close(mixed, total + entropy, rtol=1e-5, atol=0)
    torch.testing.assert_close(shown, plain, rtol=1e-5, atol=0)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_teacher_that_expects_what_the_learner_does_changes_nothing():
    hidden, table, tokens, weights = drawn()
    own = (hidden @ table.T).index_fill(-1, NEVER, -torch.inf).softmax(-1).detach()
    mixed, _ = distilled_cross_entropy(hidden, table, SoftTargets(tokens, lambda rows: own[rows], 1.0), weights, NEVER)
    for gradient in torch.autograd.grad(mixed, (hidden, table)):
        assert gradient.abs().max() < 1e-4


def test_the_text_alone_is_the_plain_cross_entropy():
    hidden, table, tokens, weights = drawn()
    plain = head_cross_entropy(hidden, table, tokens, weights, NEVER)
    expected = torch.autograd.grad(plain, (hidden, table))
    mixed, shown, found = chunked(0.0, expectations())
    torch.testing.assert_close(mixed, plain.detach())
    torch.testing.assert_close(shown, plain.detach())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_teacher_is_asked_about_a_few_rows_at_a_time():
    hidden, table, tokens, weights = drawn()
    q, asked = expectations(), []

    def expected(rows: slice) -> Tensor:
        asked.append(len(q[rows]))
        return q[rows].clone()

    distilled_cross_entropy(hidden, table, SoftTargets(tokens, expected, 0.5), weights, NEVER)
    assert sum(asked) == N
    assert max(asked) <= 512
