"""How much memory does a training on a large file take?

python -m benchmarks big_file --megabytes 1 50 500
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.lib.tables import heading, table

QUICK = {"megabytes": [1]}
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
_TRAINING = ["--for", "none", "--size", "nano", "--steps", "2", "--name", "big-file"]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1, 500])


def main(given: Namespace) -> None:
    """Measure every size, each in a process and a registry of its own."""
    rows = []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder) / "text.txt"
            write_text(text, megabytes)
            peak, seconds = train(text, Path(folder) / "home")
        rows.append([f"{megabytes:g}", round(peak), round(seconds)])
    print(f"{heading()}\n\n{table(['text, MB', 'peak memory, MiB', 'seconds'], rows)}")


def write_text(path: Path, megabytes: float) -> None:
    """Write lines of invented words; no two lines are alike."""
    draw = random.Random(0)
    words = ["".join(draw.choices(_SYLLABLES, k=draw.randint(1, 4))) for _ in range(20_000)]
    written, number = 0, 0
    with path.open("w", encoding="ascii") as file:
        while written < megabytes * 1e6:
            number += 1
            written += file.write(f"{number} {' '.join(draw.choices(words, k=12))}.\n")


def train(text: Path, home: Path) -> tuple[float, float]:
    """Train a core on a text with the command itself: peak memory in MiB, seconds."""
    began = time.monotonic()
    command = [sys.executable, "-m", "ssdcli", "train-small", str(text), *_TRAINING]
    process = subprocess.Popen(command, env=os.environ | {"SSD_HOME": str(home)}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), time.monotonic() - began
