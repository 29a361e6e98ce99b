"""Gates: a small model's weight beside its core by the noise level and by how unsure both are. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ssdcli.engine.ensemble.schedules import Constant, Leaning, Schedule

FARTHEST = 50.0  # a gate's numbers are between plus and minus this


@dataclass(frozen=True)
class Gate:
    """Two members mix with weights that a position's level and predictions decide: four numbers, fitted on text.

    The small model's log-odds against its core at a position are bias + level (t - 1/2) + core H_core + small H_small,
    H being the entropy, in nats, of what each of them predicts there.
    """

    schedule: ClassVar[str] = "leaning"  # the name of what `schedules` returns for the small model

    bias: float
    level: float
    core: float
    small: float

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The core's and the small model's: what of the odds depends on the noise level alone."""
        return Constant(1.0), Leaning(math.exp(self.bias), self.level)
