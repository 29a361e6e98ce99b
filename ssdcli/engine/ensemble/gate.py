"""Gates: a small model's weight beside its core by noise level and by both models' entropy. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.schedules import Constant, Schedule

FARTHEST = 50.0  # a gate's numbers are between plus and minus this


@dataclass(frozen=True)
class Gate:
    """Position-wise weights of two members that `mix`: four numbers, fitted on text.

    The log-odds of the small model against its core at a position are
    bias + level (t - 1/2) + core H_core + small H_small, H being the entropy, in nats, of a member's prediction there.

    bias: at t = 1/2, when both are certain.
    level: the slope in the noise level.
    core: the slope in the core's entropy.
    small: the slope in the small model's.
    """

    bias: float
    level: float
    core: float
    small: float

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The core's and the small model's: the part of the log-odds that depends on the noise level alone."""
        rule = catalogue.needing("gate")
        if rule.schedule is None:
            raise ValueError(f"a gate needs a schedule, and {rule.name} declares none")
        own: Schedule = catalogue.schedule(rule.schedule).load()(math.exp(self.bias), self.level)
        return Constant(1.0), own
