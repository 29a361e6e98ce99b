"""Unfinished trainings: their workspaces, the settings kept there, and the lock on them. Needs no torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ssdcli.errors import Resumable, SsdError, UsageError
from ssdcli.machine.distributed import is_rank_zero
from ssdcli.options.declare import flag_of
from ssdcli.registry import staging
from ssdcli.registry.disk import make_private, write_atomic
from ssdcli.registry.names import NO_CORE, check_name
from ssdcli.registry.schema import REMOVED_SETTINGS
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings

_JOB = "job.json"
_CHECKPOINTS = "checkpoint-*"
_CHANGEABLE = ("minutes", "steps", "passes", "learning_rate", "checkpoint_seconds")


def save_settings(workspace: Path, settings: TrainSettings) -> None:
    """Keep the settings of a training in its workspace."""
    write_atomic(workspace / _JOB, json.dumps(asdict(settings), indent=2) + "\n")


def saved_settings(registry: Registry, name: str) -> TrainSettings | None:
    """The settings of an unfinished training of this name, if there is one; SsdError if they cannot be read."""
    path = _workspace(registry, name) / _JOB
    if not path.exists():
        return None
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        unused = _unused(saved)
        known: dict[str, Any] = {
            key: tuple(it) if isinstance(it, list) else it for key, it in saved.items() if key not in unused
        }
        return TrainSettings(**known)
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"the settings of the unfinished training in {path} cannot be read ({error})."
        raise SsdError(problem, "Start it over with --overwrite.") from error


def _unused(saved: Mapping[str, object]) -> set[str]:
    """Which of these settings earlier versions kept without using them: some are refused today."""
    unused = set(REMOVED_SETTINGS)
    if saved.get("reads_core") or (saved.get("lora") and not saved.get("init")):
        unused |= {"gap_share", "block_size"}
    if saved.get("causal") or saved.get("draft_head"):
        unused.add("gap_share")
    if saved.get("distill_weight") == 0:
        unused |= {"distill", "distill_context", "distill_weight"}
    return unused


def resumed(registry: Registry, name: str, given: Mapping[str, object]) -> TrainSettings:
    """The settings to resume with: the saved ones, and newly given ones of those that may change."""
    saved = saved_settings(registry, name)
    if saved is None:
        raise UsageError(f"there is no unfinished training of '{name}'.", "Omit --resume to start one.")
    changed = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    changed = {key: value for key, value in changed.items() if value != getattr(saved, key)}
    flags = {member.name: flag_of(member) for member in fields(TrainSettings)}
    fixed = [key for key in changed if key not in _CHANGEABLE]
    if fixed:
        raise UsageError(
            f"a resumed training keeps its {flags[fixed[0]]}.",
            f"With --resume only {', '.join('--' + flags[key] for key in _CHANGEABLE)} can be changed.",
        )
    for key, other in (("minutes", "steps"), ("steps", "minutes")):
        if key in given and other not in given:
            changed[other] = None
    settings = replace(saved, **changed)  # type: ignore[arg-type]
    settings.check_complete()
    return settings


def begin(registry: Registry, settings: TrainSettings, *, overwrite: bool) -> None:
    """Make room for a new training, once all that can be checked before its text is read has been.

    Raises UsageError or NoSuchModel, and then leaves an unfinished training of the same name as it is.
    """
    from ssdcli.data.documents import ReadReport
    from ssdcli.data.readers.files import read_documents

    settings.check_complete()
    with claimed(registry, settings.name) as workspace:
        if has_checkpoint(registry, settings.name) and not overwrite:
            raise UsageError(
                f"a training of '{settings.name}' was interrupted and can be resumed.",
                "Pass --resume to continue it, or --overwrite to start over.",
            )
        check_free(registry, settings.name, overwrite=overwrite)
        if settings.core != NO_CORE:
            registry.find(settings.core or registry.default())
        read_documents(settings.data, ReadReport())  # refuses what does not exist; nothing is read yet
        if workspace.exists():
            shutil.rmtree(workspace)


def check_free(registry: Registry, name: str, *, overwrite: bool) -> None:
    """Raise UsageError if a new model cannot have this name."""
    found = next((entry for entry in registry.entries() if entry.name == name), None)
    if found is not None and found.bundled:
        raise UsageError(f"'{name}' comes with ssd and cannot be replaced.", "Choose another --name.")
    if not overwrite and (found is not None or name in registry.broken()):
        problem = f"a model named '{name}' exists already."
        raise UsageError(problem, "Pass --overwrite to replace it, or choose another --name.")


def has_checkpoint(registry: Registry, name: str) -> bool:
    """Whether a training of this name was interrupted after its first checkpoint."""
    return any(_workspace(registry, name).glob(_CHECKPOINTS))


@contextmanager
def claimed(registry: Registry, name: str, what: str | None = None) -> Iterator[Path]:
    """Lock a training's workspace, which need not exist, against other processes; SsdError if one has locked it.

    Under torchrun the first process locks it for all of them.

    what: is made there, in a sentence, where it is not the training of this name.
    """
    from filelock import Timeout

    workspace = _workspace(registry, name)
    if not is_rank_zero():
        yield workspace
        return
    with registry.locked():
        path = make_private(workspace.parent) / f".{name}.lock"
        lock = staging.lock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if what is not None:
                raise SsdError(f"{what} is being built by another process.", "Wait for it, or stop it.") from None
            problem = f"'{name}' is being trained by another process."
            raise SsdError(problem, "Wait for it, stop it, or choose another --name.") from None
    try:
        yield workspace
    finally:
        with registry.locked():
            lock.release()
            path.unlink(missing_ok=True)


@contextmanager
def undone_if_refused(workspace: Path) -> Iterator[None]:
    """Remove the workspace of a training that was begun here and fails with nothing to resume."""
    is_new = is_rank_zero() and not workspace.exists()
    try:
        yield
    except SsdError as error:
        if is_new and not isinstance(error, Resumable) and not any(workspace.glob(_CHECKPOINTS)):
            shutil.rmtree(workspace, ignore_errors=True)
        raise


def _workspace(registry: Registry, name: str) -> Path:
    return registry.home / "training" / check_name(name)
