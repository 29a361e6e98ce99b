"""How many threads to train with, found by trying: on a machine with other work, one can do more than all.

The threads of a matrix product wait for the last of them. Where another program holds a core, they all wait until the
scheduler gives it back: on two cores a step then takes up to eight times as long with two threads as with one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

from ssdcli.machine.distributed import world_size

_STEPS = 3  # that are compared
_PAUSE = 100  # the shortest steps' time between two trials, at first
_LONGEST = 8  # times that, when trials change nothing
_HOPELESS = 1.5  # a step so many times as long as what it is compared with ends a trial


class Threads:
    """Times the steps of a training, and now and then some of them with the other number of threads: one, or all."""

    def __init__(self, number: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begins with `number`."""
        self.number = number
        self._other = 1
        self._clock = clock
        self._began: float | None = None
        self._times: list[float] | None = None  # of the latest steps with `number`; the very first allocates
        self._shortest = math.inf
        self._to_beat: float | None = None  # in a trial: what a step took with the other number
        self._pause = 0
        self._tried = 0.0

    def begin(self) -> None:
        """Note that a step begins."""
        self._began = self._clock()

    def end(self) -> int:
        """Note that it ends; returns the number of threads for the next one."""
        now = self._clock()
        if self._times is None or self._began is None:
            self._times = []
            return self.number
        self._times = [*self._times[1 - _STEPS :], now - self._began]
        self._shortest = min(self._shortest, self._times[-1])
        if self._to_beat is not None:
            self._judge(self._to_beat, median(self._times), now)
        elif len(self._times) == _STEPS and now - self._tried >= self._pause * self._shortest:
            self._to_beat = median(self._times)
            self._swap()
        return self.number

    def _judge(self, to_beat: float, seconds: float, now: float) -> None:
        """End a trial when its outcome is clear."""
        if self._times is not None and len(self._times) < _STEPS and seconds < _HOPELESS * to_beat:
            return
        better = seconds < to_beat
        self._pause = _PAUSE if better or not self._pause else min(2 * self._pause, _LONGEST * _PAUSE)
        self._tried, self._to_beat = now, None
        if not better:
            self._swap()

    def _swap(self) -> None:
        self.number, self._other, self._times = self._other, self.number, []


def choice(repeatable: bool) -> Threads | None:
    """The number of threads as a choice made while training; None where there is nothing to choose.

    repeatable: whether the same training must give the same weights every time, which rules a choice out, because a sum
    is rounded differently when other threads compute its parts.
    """
    on_cpu = not torch.cuda.is_available() and world_size() == 1 and torch.get_num_threads() > 1
    return Threads(torch.get_num_threads()) if on_cpu and not repeatable else None


@contextmanager
def same_threads() -> Iterator[None]:
    """Leave torch with as many threads as it had."""
    number = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(number)
