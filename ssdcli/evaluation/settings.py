"""What a measurement is told. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ssdcli.errors import require
from ssdcli.generation.types import Blend
from ssdcli.machine.placement import FREE, Placement


@dataclass(frozen=True)
class EvalSettings:
    """What to measure on held-out text; every value is checked when it is made (UsageError).

    rules, schedules: of the ensemble; by default all of the catalogue that its members allow.
    context: private, seen by the small models alone. documents: drawn at random from the text, at most. minutes: for
    the losses; reading and generating come on top. generate: how many documents are gone on from, for measures of text.
    judge: the folder of a causal language model that reads these texts. placement: where the models run.
    """

    rules: tuple[str, ...] = ()
    schedules: tuple[str, ...] = ()
    context: str = ""
    documents: int = 1000
    minutes: float = 3.0
    seed: int = 0
    generate: int = 0
    judge: Path | None = None
    placement: Placement = FREE

    def __post_init__(self) -> None:
        for rule in self.rules:
            Blend(rule)
        require(self.documents >= 1, f"documents must be at least 1, not {self.documents}.")
        require(0 < self.minutes < math.inf, f"minutes must be above 0, not {self.minutes}.")
        require(self.generate >= 0, f"generate must be at least 0, not {self.generate}.")
        reads = self.judge is None or self.generate > 0
        require(reads, "a judge reads texts, and none are to be generated.", "Pass --generate 50, or leave it out.")
