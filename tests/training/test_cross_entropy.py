from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.training.cross_entropy import head_cross_entropy

R, V = 12, 40
NONE = torch.empty(0, dtype=torch.int64)
COUNTS = pytest.mark.parametrize("count", [1, 511, 512, 513, 1025, 1700])


def case(count: int, never: Tensor = NONE, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, table, targets that are none of `never`, and weights, some of them zero."""
    torch.manual_seed(seed)
    allowed = torch.tensor([v for v in range(V) if v not in never.tolist()])
    targets = allowed[torch.randint(len(allowed), (count,))]
    weights = torch.rand(count) * 3 * (torch.rand(count) > 0.2)
    return torch.randn(count, R), torch.randn(V, R), targets, weights


def reference(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, never: Tensor) -> Tensor:
    """The same by torch's own loss, all logits at once, in float64."""
    logits = (hidden @ table.T).index_fill(-1, never, -math.inf)
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


def both(count: int, never: Tensor = NONE, dtype: torch.dtype = torch.float32):
    """(value, gradients) of the loss of this project, and of the reference on the same numbers."""
    hidden, table, targets, weights = case(count, never)
    hidden = hidden.to(dtype)
    results = []
    for loss, kinds in ((head_cross_entropy, (dtype, torch.float32)), (reference, (torch.float64,) * 2)):
        inputs = [x.to(kind).requires_grad_(True) for x, kind in zip((hidden, table), kinds, strict=True)]
        value = loss(*inputs, targets, weights.to(inputs[1].dtype), never)
        results.append((value.detach(), torch.autograd.grad(value, inputs)))
    return results


@COUNTS
@pytest.mark.parametrize("never", [NONE, torch.tensor([0]), torch.tensor([3, 17, V - 1])])
def test_value_and_gradients_are_those_of_the_plain_cross_entropy(count, never):
    (value, gradients), (expected, expected_gradients) = both(count, never)
    assert value.dtype == torch.float32
    assert value.shape == ()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-4, atol=2e-5 * math.sqrt(count))


def test_low_precision_states_give_nearly_the_same():
    (value, gradients), (expected, expected_gradients) = both(700, dtype=torch.bfloat16)
    assert value.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]
    assert float(value) == pytest.approx(float(expected), rel=0.01)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        error = (gradient.double() - wanted).norm() / wanted.norm()
        assert error < 0.03


def test_gradients_scale_with_what_is_made_of_the_loss():
    hidden, table, targets, weights = case(600)
    hidden.requires_grad_(True)
    table.requires_grad_(True)
    once = torch.autograd.grad(head_cross_entropy(hidden, table, targets, weights, NONE), (hidden, table))
    loss = head_cross_entropy(hidden, table, targets, weights, NONE)
    scaled = torch.autograd.grad(loss * -2.5 + 1, (hidden, table))
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(b, a * -2.5)


def test_a_suppressed_id_gets_no_gradient():
    never = torch.tensor([3, 17])
    (_, (_, by_table)), _ = both(100, never)
    assert (by_table[never] == 0).all()
    assert (by_table[[v for v in range(V) if v not in (3, 17)]] != 0).all()


def test_a_weight_of_zero_counts_for_nothing():
    hidden, table, targets, weights = case(600)
    hidden.requires_grad_(True)
    loss = head_cross_entropy(hidden, table, targets, weights, NONE)
    (gradient,) = torch.autograd.grad(loss, hidden)
    due = weights > 0
    assert 0 < due.sum() < 600
    assert torch.equal(gradient.abs().sum(-1) > 0, due)
    alone = head_cross_entropy(hidden[due], table, targets[due], weights[due], NONE)
    torch.testing.assert_close(alone, loss)


def test_no_positions_lose_nothing():
    hidden, table, targets, weights = case(0)
    hidden.requires_grad_(True)
    table.requires_grad_(True)
    loss = head_cross_entropy(hidden, table, targets, weights, NONE)
    by_hidden, by_table = torch.autograd.grad(loss, (hidden, table))
    assert loss == 0
    assert by_hidden.shape == (0, R)
    assert (by_table == 0).all()


def test_the_inputs_stay_as_they_are():
    inputs = case(600)
    before = [x.clone() for x in inputs]
    head_cross_entropy(*inputs, NONE)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_a_sure_prediction_loses_nothing_and_overflows_nowhere():
    hidden = torch.full((1, R), 1e4)
    table = torch.zeros(V, R)
    table[5] = 1e4
    loss = head_cross_entropy(hidden, table, torch.tensor([5]), torch.ones(1), NONE)
    assert loss == 0
