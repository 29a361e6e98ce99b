"""Times on a shared machine: alternatives take turns, and the least of many times is kept of each."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Run = Callable[[], object]


def least(runs: Mapping[str, Run], rounds: int = 15) -> dict[str, float]:
    """The least time of each run in milliseconds, of `rounds` turns after a first one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                times[name].append((time.perf_counter() - started) * 1000)
    return {name: min(measured) for name, measured in times.items()}


def table(header: list[str], rows: list[list[object]]) -> str:
    """A Markdown table; numbers get three significant digits."""
    lines = [header, ["---"] * len(header), *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """The processor or the GPU, threads and versions."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = next((line for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    return f"{model.split(':')[-1].strip()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
