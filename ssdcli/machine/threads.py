"""The number of threads to train and to write with, found by trial: on a busy machine, one can be faster than all.

The threads of a matrix product wait for the slowest of them. If another program holds a core, all wait until the
scheduler gives it back: on two cores a step then takes up to eight times as long with two threads as with one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import TypeVar

import torch

from ssdcli.machine.distributed import world_size

_STEPS = 3  # of each number, whose medians are compared
_PAUSE = 100  # between two trials, in times of the shortest step; doubled when a trial changed nothing
_LONGEST = 8  # the longest pause, in times of the first
_HOPELESS = 1.5  # a step so many times as long as those before ends a trial at once

T = TypeVar("T")


class Threads:
    """Times steps, and now and then tries a few with the other number of threads: one, or all."""

    def __init__(self, number: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin with `number` threads; clock: in seconds."""
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
        """Note that it ends, and return the number of threads for the next one."""
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
        """End a trial once its outcome is clear; to_beat, seconds: median times of the old and the new number."""
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
    """The number of threads as a choice made while computing; None where there is nothing to choose.

    repeatable: whether the numbers must be the same every time, though they depend on the number of threads: a sum is
    rounded differently when other threads compute its parts. That rules a choice out.
    """
    on_cpu = not torch.cuda.is_available() and world_size() == 1 and torch.get_num_threads() > 1
    return Threads(torch.get_num_threads()) if on_cpu and not repeatable else None


def timed(steps: Iterable[T], threads: Threads | None) -> Iterator[T]:
    """The same steps, each computed by the number of threads that was the fastest of late; None leaves it as it is."""
    if threads is None:
        yield from steps
        return
    with same_threads():
        threads.begin()
        for step in steps:
            torch.set_num_threads(threads.end())
            yield step
            threads.begin()


@contextmanager
def same_threads() -> Iterator[None]:
    """Restore torch's number of threads on exit."""
    number = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(number)
