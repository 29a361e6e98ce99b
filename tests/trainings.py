"""Trainings of a second or less, and text for them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdcli.registry.store import Registry
from ssdcli.training.job import Trained, Watcher, train_small
from ssdcli.training.settings import TrainSettings

STEPS = 6
SECRET = "xylophone-4711"  # a word of the text that must not be found elsewhere
SHAPE: Mapping[str, Any] = {"hidden": 32, "layers": 1, "context": 64, "batch_tokens": 128}
FROM_SCRATCH: Mapping[str, Any] = {"core": "none", "block_size": 8, "vocabulary": 300}
_WORDS = ("the", "boiler", "is", "cold", "and", "a", "letter", "to", "my", "dear", "landlord", "says", "it", "stairs")
_STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def write_text(path: Path, words: int = 1500, seed: int = 0) -> str:
    """Write a text of random words in lines of ten, and return its path."""
    draw = random.Random(seed)
    lines = (" ".join(draw.choice(_WORDS) for _ in range(9)) for _ in range(words // 10))
    path.write_text("".join(f"{line} {SECRET}\n" for line in lines), encoding="utf-8")
    return str(path)


def tiny_settings(data: str, **changes: Any) -> TrainSettings:
    """A core from scratch in six steps, with a checkpoint after each of them."""
    fields: dict[str, Any] = {"name": "tiny", "steps": STEPS, "checkpoint_seconds": 0.0, **SHAPE, **FROM_SCRATCH}
    return TrainSettings(**{"data": (data,), **fields, **changes})


@dataclass(frozen=True)
class Outcome:
    """A finished training, its last checkpoint, and the steps that were taken in this process."""

    trained: Trained
    state: Mapping[str, bytes]
    steps: list[int]


def run(settings: TrainSettings, home: Path, stop_after: int | None = None) -> Outcome:
    """Train in a registry at `home`; Interrupted is raised after the step `stop_after`."""
    steps: list[int] = []
    state: dict[str, bytes] = {}

    def look() -> None:
        (checkpoint,) = (home / "training" / settings.name).glob("checkpoint-*")
        state.update({name: (checkpoint / name).read_bytes() for name in _STATE})

    watcher = Watcher(
        on_progress=lambda progress: steps.append(progress.step),
        on_measuring=look,
        wants_stop=lambda: steps[-1:] == [stop_after],
    )
    return Outcome(train_small(settings, watcher, registry=Registry(home)), state, steps)
