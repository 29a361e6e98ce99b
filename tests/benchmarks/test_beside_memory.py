from __future__ import annotations

import torch

from benchmarks.lib.beside_memory import averaged, fitted


def alike(nats: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(nats, expected, atol=1e-6, rtol=0)


def two_members() -> tuple[torch.Tensor, torch.Tensor]:
    """Log p of 200 tokens: the first member is good where the feature is 1, the second elsewhere."""
    feature = (torch.arange(200) % 2).double()
    good, bad = torch.tensor(0.8).double().log(), torch.tensor(0.1).double().log()
    log_p = torch.stack([torch.where(feature == 1, good, bad), torch.where(feature == 1, bad, good)], dim=1)
    return log_p, torch.stack([torch.ones_like(feature), feature], dim=1)


def test_an_average_of_extreme_weights_is_a_member_alone() -> None:
    log_p, _ = two_members()
    alike(averaged(log_p, torch.full((200,), -60.0).double()), -log_p[:, 0])
    alike(averaged(log_p, torch.full((200,), 60.0).double()), -log_p[:, 1])


def test_a_gate_finds_where_each_member_is_good() -> None:
    log_p, columns = two_members()
    constant = averaged(log_p, columns[:, :1] @ fitted(log_p, columns[:, :1])).mean()
    gated = averaged(log_p, columns @ fitted(log_p, columns)).mean()
    assert float(gated) < float(constant) - 0.4
