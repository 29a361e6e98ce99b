"""The weight of a small model in its core's company, chosen on held-out text."""

from __future__ import annotations

from ssdcli.evaluation.losses import Losses

GRID = tuple(i / 10 for i in range(11))


def best_weight(losses: Losses) -> float:
    """The weight in (0, 1] with the least of the losses over the grid."""
    return GRID[1 + int(losses.nats_per_token()[1:].argmin())]
