"""Crash-safe replacement and removal of models.

A model is written into a hidden sibling `.NAME.ID`, while its writer holds the lock file `.NAME.ID.lock`.
Replacing renames the old model to `.NAME.old-ID`, the new one to NAME, and then deletes the old one; removing
renames to `.NAME.gone-ID` first. So the name alone tells what a crash left behind, and `settle` finishes or undoes
it. Everything here that renames or deletes is called under the registry's lock.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssdcli.registry.disk import PRIVATE_FILE, PRIVATE_FOLDER, sync, unique_suffix

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<mark>old-|gone-)?[0-9a-f]{8}(?P<lock>\.lock)?")


@dataclass(frozen=True)
class Stage:
    """A folder being written, and the lock that its writer holds while it is alive."""

    folder: Path
    alive: BaseFileLock

    def close(self) -> None:
        """Delete what was not published, and release the lock."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.alive.release()
        _lock_path(self.folder).unlink(missing_ok=True)


def lock(path: Path) -> BaseFileLock:
    """The lock between processes whose file is at `path`."""
    from filelock import FileLock  # its import takes longer than listing the models, which needs no lock

    return FileLock(path, mode=PRIVATE_FILE)


def open_stage(models: Path, name: str) -> Stage:
    """Make the hidden sibling in which a model of this name is written."""
    folder = models / f".{name}.{unique_suffix()}"
    alive = lock(_lock_path(folder))
    alive.acquire()
    folder.mkdir(mode=PRIVATE_FOLDER)
    return Stage(folder, alive)


def swap_in(folder: Path, target: Path) -> None:
    """Rename a finished folder to its model's name, replacing the old model if there is one."""
    aside = target.with_name(f".{target.name}.old-{unique_suffix()}")
    replaces = target.exists()
    if replaces:
        target.rename(aside)
    try:
        folder.rename(target)
    except BaseException:
        if replaces:
            aside.rename(target)
        raise
    sync(target.parent)
    if replaces:
        shutil.rmtree(aside)


def take_out(target: Path) -> None:
    """Delete a model so that a crash leaves it whole or gone."""
    doomed = target.with_name(f".{target.name}.gone-{unique_suffix()}")
    target.rename(doomed)
    sync(target.parent)
    shutil.rmtree(doomed)


def model_names(models: Path) -> set[str]:
    """The names of the models, including one that is set aside at this moment."""
    paths = _paths(models)
    # A path that no longer exists was set aside after it was listed, and counts under its hidden name.
    visible = {path.name for path in paths if not path.name.startswith(".") and not path.is_file()}
    hidden = (_LEFTOVER.fullmatch(path.name) for path in paths)
    return visible | {found["name"] for found in hidden if found and found["mark"] == "old-"}


def settle(models: Path) -> None:
    """Finish or undo every interrupted write: the old model comes back if the new one did not get its name."""
    for path in _paths(models):
        found = _LEFTOVER.fullmatch(path.name)
        if found is None:
            continue
        target = models / found["name"]
        if found["lock"]:
            _delete_if_orphan(path)
        elif found["mark"] == "old-" and not target.exists():
            path.rename(target)
        elif found["mark"]:
            shutil.rmtree(path)
        else:
            _delete_if_abandoned(path)


def _delete_if_orphan(lock_path: Path) -> None:
    # A lock and its folder are made and deleted under the registry's lock, so a lock alone was left by a crash.
    if not lock_path.with_suffix("").exists():
        lock_path.unlink(missing_ok=True)


def _delete_if_abandoned(folder: Path) -> None:
    from filelock import Timeout

    try:
        with lock(_lock_path(folder)).acquire(timeout=0):
            shutil.rmtree(folder)
    except Timeout:
        return
    _lock_path(folder).unlink(missing_ok=True)


def _lock_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _paths(models: Path) -> list[Path]:
    return sorted(models.iterdir()) if models.is_dir() else []


@contextmanager
def held(guard: BaseFileLock) -> Iterator[None]:
    """Hold a lock for the length of a block."""
    guard.acquire()
    try:
        yield
    finally:
        guard.release()
