"""How long to train, and the learning rate meanwhile: warm up, hold, decay to zero (warmup-stable-decay).

A plan by time does not know its number of steps at first. A rate that is constant until the decay allows for that: only
when the decay begins must the end be known, and until then the pace of the steps so far estimates it (Hu et al.,
"MiniCPM", 2024). The last steps at a falling rate gain most, so the rate reaches zero exactly at the end.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

_MEASURED = 8  # steps before the pace is first estimated; the first of them allocates, and does not count
_RECENT = 200


@dataclass(frozen=True)
class Budget:
    """What the user granted: a number of steps, or seconds.

    steps: to take, if they are given.
    seconds: to spend, if steps are not given.
    most: steps that are worth taking of what the seconds allow.
    """

    steps: int | None = None
    seconds: float | None = None
    most: int | None = None


@dataclass(frozen=True)
class Grant:
    """The time of a whole training, from its first moment on.

    minutes: that it may take; infinite for a training by steps.
    began: when, by the clock.
    check: raises Interrupted when the user wants to stop.
    """

    minutes: float
    began: float
    clock: Callable[[], float]
    check: Callable[[], None]

    def spent(self, share: float) -> bool:
        """Whether a share of the minutes is over; Interrupted when the user wants to stop."""
        self.check()
        return self.clock() >= self.began + share * 60 * self.minutes


class Plan:
    """The number of steps and the learning rate's schedule; with a time budget, replanned until the decay begins."""

    FILE = "plan.json"

    def __init__(
        self,
        budget: Budget,
        warmup: int = 50,
        decay: float = 0.4,
        overhead: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Plan a training.

        warmup: steps over which the rate rises.
        decay: share of the steps over which it falls to zero.
        overhead: seconds of the budget that are spent before and after the training.
        """
        self.budget = budget
        self.overhead = overhead
        self.warmup = warmup
        self.decay = decay
        self.total = budget.steps
        self.spent = 0.0  # seconds of training before this process
        self._clock = clock
        self._started: float | None = None
        self._ends: deque[float] = deque(maxlen=_RECENT)

    def start(self) -> None:
        """Start the clock of this process."""
        self._started = self._clock()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, including those of earlier processes."""
        return self.spent + (self._clock() - self._started if self._started is not None else 0.0)

    def seconds_per_step(self) -> float | None:
        """The mean duration of this process's recent steps, or None before enough were seen."""
        if len(self._ends) < _MEASURED:
            return None
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)

    def observe(self, step: int) -> None:
        """Note that `step` steps are done, and replan unless the learning rate has begun to fall."""
        self._ends.append(self._clock())
        pace = self.seconds_per_step()
        if self.budget.seconds is None:
            return
        left = max(0.0, self.budget.seconds - self.overhead - self.elapsed)
        if pace is None and left > 0:
            return
        planned = step + (max(1, round(left / pace)) if pace else 0)
        if self.budget.most is not None:
            planned = max(step, min(planned, self.budget.most))
        if self.total is not None and self.winds_down(step):
            planned = min(planned, self.total)  # a training that has slowed down still ends in time
        self.total = planned

    def done(self, step: int) -> bool:
        """Whether all planned steps are taken."""
        return self.total is not None and step >= self.total

    def wind_down(self, step: int, steps: int) -> None:
        """Let the learning rate fall to zero over the next `steps` and end then, no later than planned."""
        if self.total is not None and steps and not self.winds_down(step):
            self.total = min(self.total, step + steps)
            self.decay = (self.total - step) / self.total

    def winds_down(self, step: int) -> bool:
        """Whether the learning rate is falling."""
        return self.total is not None and step >= self.total * (1 - self.decay)

    def rate(self, step: int) -> float:
        """The factor on the peak learning rate at `step`, counted from 0."""
        rising = min(1.0, (step + 1) / max(1, min(self.warmup, (self.total or 5 * self.warmup) // 5)))
        if self.total is None:
            return rising
        falling = (self.total - step) / max(1.0, self.total * self.decay)
        return max(0.0, min(rising, falling))

    def save(self, folder: Path) -> None:
        """Write the state that a resumed training needs."""
        state = asdict(self.budget) | {"total": self.total, "decay": self.decay, "spent": self.elapsed}
        (folder / self.FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote; if the budget has changed since, its end is planned anew."""
        state = json.loads((folder / self.FILE).read_text(encoding="utf-8"))
        self.spent = state["spent"]
        if self.budget == Budget(state["steps"], state["seconds"], state["most"]):
            self.total, self.decay = state["total"], state["decay"]
