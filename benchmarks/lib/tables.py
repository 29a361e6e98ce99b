"""Markdown tables, and the line above them that says when, where and by which command they were made."""

from __future__ import annotations

import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats get three significant digits, integers thousands separators."""
    lines = [header, ["---"] * len(header), *[[_cell(cell) for cell in row] for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def signed(value: float, error: float | None = None) -> str:
    """A difference, and its standard error if there is one, to four digits."""
    return f"{value:+.4f}" if error is None else f"{value:+.4f} ± {error:.4f}"


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers."""
    return statistics.fmean(values)


def spread(values: Iterable[float]) -> str:
    """A mean, and plus or minus the standard deviation where there are several values."""
    numbers = [float(value) for value in values]
    digits = 0 if all(number.is_integer() for number in numbers) else 3
    deviation = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):,.{digits}f}{deviation}"


def heading() -> str:
    """Today's date, the machine and the command that is running."""
    return f"{today()}, {machine()}: `{command()}`"


def today() -> str:
    """The date in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def command() -> str:
    """The command that is running, as it is typed."""
    return " ".join(sys.argv)


def machine() -> str:
    """The processor or the GPU, the number of threads, and torch's version."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = next((line for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    return f"{model.split(':')[-1].strip()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
