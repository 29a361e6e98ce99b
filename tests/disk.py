"""A disk that is watched: what is forced to it, and when."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NEEDS_DESCRIPTORS = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="what a descriptor is of is told there"
)


class Disk:
    """Notes which files and folders are synced, and checks at each rename that all it makes visible was synced before.

    A file must have had its whole content then: what is still in a buffer does not reach the disk.

    log: what happened, in order: ("sync", path), ("rename", target) or ("delete", path).
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, Path]] = []
        self._synced: dict[int, int] = {}  # the size of each inode at its last sync
        sync, rename, replace, rmtree = os.fsync, Path.rename, Path.replace, shutil.rmtree

        def noted_sync(descriptor: int) -> None:
            sync(descriptor)
            status = os.fstat(descriptor)
            self._synced[status.st_ino] = status.st_size
            self.log.append(("sync", Path(f"/proc/self/fd/{descriptor}").resolve()))

        def noted_rename(move):
            def noted(source: Path, target: Path) -> Path:
                if not target.name.startswith("."):  # what is set aside is old, and was synced in its time
                    self._check(source)
                moved = move(source, target)
                self.log.append(("rename", target))
                return moved

            return noted

        def noted_rmtree(path: Path, **how: bool) -> None:
            self.log.append(("delete", path))
            rmtree(path, **how)

        monkeypatch.setattr(os, "fsync", noted_sync)
        monkeypatch.setattr(Path, "rename", noted_rename(rename))
        monkeypatch.setattr(Path, "replace", noted_rename(replace))
        monkeypatch.setattr(shutil, "rmtree", noted_rmtree)

    def _check(self, source: Path) -> None:
        for path in (source, *source.rglob("*")):
            assert self.holds(path), f"{path} was not synced, or not all of it"

    def holds(self, path: Path) -> bool:
        """Whether a folder was synced, or a file as long as it is now."""
        status = path.stat()
        known = self._synced.get(status.st_ino)
        return known is not None and (path.is_dir() or known == status.st_size)

    def after(self, event: str, target: Path) -> list[tuple[str, Path]]:
        """What followed the last event of this kind and path."""
        last = max(place for place, entry in enumerate(self.log) if entry == (event, target))
        return self.log[last + 1 :]
