"""Measurements in rounds: every round adds precision, and there are as many as time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.noise import fold
from ssdcli.engine.process import Process
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.evaluation.scored_text import ScoredText


@dataclass(frozen=True)
class Rounds:
    """Iterates over the numbers of the rounds: at least one, and none that is expected to end too late.

    most: rounds, at most.
    seconds: by which the last one should end.
    on_round: told after every round which share is done, by number or by time, whichever is larger.
    clock: in seconds.
    """

    most: int
    seconds: float
    on_round: Callable[[float], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic

    def __iter__(self) -> Iterator[int]:
        began = self.clock()
        for number in range(self.most):
            yield number
            spent, done = self.clock() - began, number + 1
            next_end = spent * (done + 1) / done
            is_last = done == self.most or next_end > self.seconds
            self.on_round(1.0 if is_last else max(done / self.most, spent / self.seconds))
            if is_last:
                return


def paired_losses(
    members: Sequence[Backbone],
    process: Process,
    texts: Sequence[ScoredText],
    settings: LossSettings,
    rounds: Rounds,
) -> np.ndarray:
    """Measure the loss of each text under one or two members, all noised alike: (D, members), nats.

    Each round draws new noise levels and new noise, the same for all texts: their losses are compared, and what the
    noise adds to all of them cancels.
    """
    alike = [replace(text, noise=0) for text in texts]
    total, count = np.zeros((len(texts), len(members))), 0
    for number in rounds:
        drawn = replace(settings, seed=fold(settings.seed, number), repeats=1)
        total += measure(members, process, alike, range(len(members)), drawn).sums
        count += 1
    return np.asarray(total / count)
