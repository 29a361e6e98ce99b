"""The weight of a small model in its core's company, chosen on held-out text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.process import Process
from ssdcli.evaluation.losses import Losses, LossSettings, Passage, measure

GRID = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class Sweep:
    """Losses over the grid of weights, and the weight in (0, 1] with the least."""

    losses: Losses
    best: float


def sweep(
    core: Backbone, small: Backbone, process: Process, passages: Sequence[Passage], settings: LossSettings
) -> Sweep:
    """Measure core, small and their mixtures on the same noise."""
    losses = measure((core, small), process, passages, GRID, settings)
    return Sweep(losses, best_weight(losses))


def best_weight(losses: Losses) -> float:
    """The weight in (0, 1] with the least of the losses over the grid."""
    return GRID[1 + int(losses.nats_per_token()[1:].argmin())]
