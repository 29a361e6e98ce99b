"""Times on a shared machine: alternatives take turns, and the least of many times is kept of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

Run = Callable[[], object]


def least(
    runs: Mapping[str, Run], rounds: int = 15, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The least time of each run in milliseconds, of `rounds` turns after a first one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append((clock() - started) * 1000)
    return {name: min(measured) for name, measured in times.items()}


def processor_seconds() -> float:
    """Seconds that this process has had of the processor, divided by its number of threads."""
    return time.process_time() / torch.get_num_threads()
