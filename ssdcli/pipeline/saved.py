"""Unfinished trainings: their settings, and who may touch their workspace. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.names import check_name
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings

JOB = "job.json"
_CHANGEABLE = ("minutes", "steps", "learning_rate")


def unfinished(registry: Registry, name: str) -> TrainSettings | None:
    """The settings of a training of this name that was started and not finished."""
    check_name(name)
    path = registry.home / "training" / name / JOB
    if not path.exists():
        return None
    saved = json.loads(path.read_text(encoding="utf-8"))
    return TrainSettings(**(saved | {"data": tuple(saved["data"])}))


def resumed(registry: Registry, name: str, given: Mapping[str, object]) -> TrainSettings:
    """The settings to go on with: the saved ones, and of the newly given ones those that a training can change."""
    saved = unfinished(registry, name)
    if saved is None:
        raise UsageError(f"there is no unfinished training of '{name}'.", "Leave --resume out to start one.")
    fixed = [key for key, value in given.items() if key not in _CHANGEABLE and value != getattr(saved, key)]
    if fixed:
        raise UsageError(
            f"a resumed training keeps its {fixed[0].replace('_', '-')}.",
            f"With --resume only {', '.join('--' + key.replace('_', '-') for key in _CHANGEABLE)} can be changed.",
        )
    changed = {key: value for key, value in given.items() if key in _CHANGEABLE}
    if "minutes" in changed:
        changed.setdefault("steps", None)
    elif "steps" in changed:
        changed.setdefault("minutes", None)
    return replace(saved, **changed)  # type: ignore[arg-type]


def discard(registry: Registry, name: str) -> None:
    """Forget an unfinished training."""
    check_name(name)
    with claimed(registry.workspace(name), name) as workspace:
        shutil.rmtree(workspace)


def has_checkpoint(registry: Registry, name: str) -> bool:
    """Whether a training of this name was interrupted after its first checkpoint."""
    check_name(name)
    return any((registry.home / "training" / name).glob("checkpoint-*"))


@contextmanager
def claimed(workspace: Path, name: str) -> Iterator[Path]:
    """Keep other processes out of a training's workspace."""
    lock = FileLock(workspace.parent / f".{name}.lock")
    try:
        with lock.acquire(blocking=False):
            yield workspace
    except Timeout:
        raise SsdError(f"'{name}' is being trained by another process.", "Wait for it, or stop it.") from None
