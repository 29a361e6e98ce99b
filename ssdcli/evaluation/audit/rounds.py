"""Measurements in rounds, each of which makes them finer: as many as there is time for."""

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
    """Numbers from 0: at least one, at most `most`, and none that would end after `seconds`.

    on_round: told after every round which share is done, by number or by time.
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
    passages: Sequence[ScoredText],
    settings: LossSettings,
    rounds: Rounds,
) -> np.ndarray:
    """Loss of each passage under each of one or two members, all noised alike: (D, members), nats.

    A round draws the noise levels and the noise once more, the same for all passages.
    """
    alike = [replace(passage, noise=0) for passage in passages]
    total, count = np.zeros((len(passages), len(members))), 0
    for number in rounds:
        drawn = replace(settings, seed=fold(settings.seed, number), repeats=1)
        total += measure(members, process, alike, range(len(members)), drawn).sums
        count += 1
    return np.asarray(total / count)
