"""The registry: one private folder per model, changed under a lock, and whole at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.registry import staging
from ssdcli.registry.disk import (
    close_to_others,
    digest,
    disk_errors,
    files_below,
    make_private,
    sync,
    sync_tree,
    write_atomic,
)
from ssdcli.registry.manifest import ADAPTER, FILE, MEMORY, WEIGHT, Manifest, read_manifest, write_manifest
from ssdcli.registry.names import check_name, suggest

if TYPE_CHECKING:
    from filelock import BaseFileLock

STARTER = "starter"  # comes with the package: the default core where there is no better one
SMOLLM2 = "smollm2"  # the default core where it is registered
_OTHERWISE = "choose another name with --as"  # how what is imported or pulled gets it
BUNDLED = Path(__file__).parents[1] / "bundled" / "models"


def home() -> Path:
    """The folder in which ssd keeps everything: SSD_HOME, or the platform's folder for user data."""
    chosen = os.environ.get("SSD_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("ssd", appauthor=False)


@dataclass(frozen=True)
class Entry:
    """A model of the registry.

    name: that of its folder.
    folder: where its files are.
    manifest: what it says of itself.
    bundled: whether it came with ssd, and cannot be changed.
    """

    name: str
    folder: Path
    manifest: Manifest
    bundled: bool


class Registry:
    """The models of one home folder, together with the read-only ones that come with ssd."""

    def __init__(self, home_folder: Path | None = None, bundled: Path = BUNDLED) -> None:
        self.home = home() if home_folder is None else home_folder.absolute()
        self.models = self.home / "models"
        self._bundled = bundled

    def entries(self) -> list[Entry]:
        """Every model that can be read, sorted by name; `broken` has the others."""
        found = (self._entry_or_problem(name) for name in self._names())
        return [entry for entry in found if isinstance(entry, Entry)]

    def broken(self) -> dict[str, str]:
        """What is wrong with each folder that holds no readable model, by the folder's name."""
        found = {name: self._entry_or_problem(name) for name in self._names()}
        return {name: problem for name, problem in found.items() if isinstance(problem, str)}

    def find(self, name: str) -> Entry:
        """The model of this name, or raise NoSuchModel (UsageError for what is not a name)."""
        return self._entry(check_name(name))

    def origin_of(self, entry: Entry) -> Entry | None:
        """The model that an adapter is loaded on, or whose states a small model reads; None for any other model.

        Raises NoSuchModel if it is gone, UsageError if another model has its name.
        """
        manifest = entry.manifest
        if manifest.kind != ADAPTER and not manifest.reads_core:
            return None
        adapts = "an adapter for" if manifest.kind == ADAPTER else "a small model that reads"
        own = "adapter" if manifest.kind == ADAPTER else "small model"
        try:
            origin = self.find(manifest.origin or "")
        except (NoSuchModel, UsageError):
            raise NoSuchModel(
                f"{entry.name!r} is {adapts} {manifest.origin!r}, and there is no model of this name.",
                f"Import or pull that model again; the {own} is of no use without it.",
            ) from None
        if origin.manifest.weights_digest != manifest.base_weights:
            raise UsageError(
                f"{entry.name!r} is {adapts} another {origin.name!r} than the one here: its weights have changed.",
                f"Restore the weights that {entry.name!r} was trained with, or train the {own} again.",
            )
        return origin

    @contextmanager
    def stage(self, name: str, overwrite: bool = False) -> Iterator[Path]:
        """Yield a private folder for a model and its manifest; a clean exit registers it as `name`.

        Raises UsageError when the name is taken and `overwrite` is off, SsdError when the disk is full or forbids it.
        """
        check_name(name)
        with disk_errors(self.home):
            with self._writing():
                self._check_free(name, overwrite)
                stage = staging.open_stage(self.models, name)
            try:
                yield stage.folder
                _seal(stage.folder, name)
                with self._writing():
                    self._check_free(name, overwrite)
                    staging.swap_in(stage.folder, self.models / name)
            finally:
                with staging.held(self._lock):
                    stage.close()

    def remove(self, name: str) -> None:
        """Delete a model, readable or not; if it was the default, the default is as if none had been chosen."""
        with self._changing(name) as folder:
            staging.take_out(folder)
            self.packed(name).unlink(missing_ok=True)
            if self._chosen_default() == name:
                self._default_file.unlink()

    def rename(self, old: str, new: str) -> None:
        """Rename a model, also in the default and in the manifests of models made from it or for it."""
        check_name(new)
        with self._changing(old) as folder:
            self._check_free(new, overwrite=False, renamed=True)
            manifest = read_manifest(folder)
            folder.rename(self.models / new)
            self.packed(old).unlink(missing_ok=True)
            sync(self.models)  # before anything on the disk mentions the new name
            write_manifest(self.models / new, replace(manifest, name=new))
            for entry in self.entries():
                core, base = (new if link == old else link for link in (entry.manifest.core, entry.manifest.base))
                if (core, base) != (entry.manifest.core, entry.manifest.base) and not entry.bundled:
                    write_manifest(entry.folder, replace(entry.manifest, core=core, base=base))
            if self._chosen_default() == old:
                write_atomic(self._default_file, new + "\n")

    def default(self) -> str:
        """The name of the core that is used when none is named: the one that was chosen, else SMOLLM2, else STARTER."""
        chosen, names = self._chosen_default(), self._names()
        if chosen in names:
            return chosen
        better = self._entry_or_problem(SMOLLM2) if SMOLLM2 in names else None
        return SMOLLM2 if isinstance(better, Entry) and better.manifest.kind == "core" else STARTER

    def set_default(self, name: str) -> None:
        """Make a core the one that is used when none is named."""
        manifest = self.find(name).manifest
        if manifest.kind != "core":
            problem = f"{name!r} is {manifest.noun}, and only a core can be the default."
            raise UsageError(problem, "See 'ssd models list'.")
        with self._writing():
            write_atomic(self._default_file, name + "\n")

    def set_weight(self, name: str, weight: float, gate: Mapping[str, float] | None = None) -> None:
        """Store the tuned weight, in (0, 1], of a small model, and a gate's numbers, if one was fitted."""
        if not WEIGHT.holds(weight):
            raise UsageError(f"a weight must be {WEIGHT}, not {weight}.", "Give one such as 0.3.")
        with self._changing(name) as folder:
            manifest = replace(read_manifest(folder), weight=weight)
            write_manifest(folder, manifest if gate is None else replace(manifest, gate=dict(gate)))

    def set_gates(self, name: str, weight: float | None, gates: Sequence[Mapping[str, Any]]) -> None:
        """Store the joint gates of a small model or a memory, and the tuned weight, None to leave it as it is."""
        with self._changing(name) as folder:
            manifest = read_manifest(folder)
            kept = manifest.weight if weight is None or manifest.kind == MEMORY else weight
            write_manifest(folder, replace(manifest, weight=kept, gates=tuple(map(dict, gates))))

    def set_metrics(self, name: str, metrics: Mapping[str, float]) -> None:
        """Store what was measured of a model, next to its other metrics."""
        with self._changing(name) as folder:
            manifest = read_manifest(folder)
            write_manifest(folder, replace(manifest, metrics=manifest.metrics | dict(metrics)))

    def workspace(self, name: str) -> Path:
        """The private folder of a model's unfinished training, made if it is missing."""
        check_name(name)
        with disk_errors(self.home):
            return make_private(self.home / "training" / name)

    def packed(self, name: str) -> Path:
        """The file of a core's weights as this machine reads them fastest, which is made anew where it is missing."""
        return self.home / "packed" / f"{name}.safetensors"

    def verify(self, name: str) -> list[str]:
        """The files of a model that are missing, differ from their digests, or are not in the manifest."""
        entry = self.find(name)
        expected = entry.manifest.files
        found = _digests(entry.folder, known={})
        return sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the registry's lock, as whoever makes or deletes another lock's file must."""
        with disk_errors(self.home):
            make_private(self.home)
            with staging.held(self._lock):
                yield

    @property
    def _default_file(self) -> Path:
        return self.home / "default"

    @cached_property
    def _lock(self) -> BaseFileLock:
        return staging.lock(self.home / "registry.lock")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the registry's lock, and first finish or undo what was interrupted."""
        with self.locked():
            make_private(self.models)
            staging.settle(self.models)
            yield

    @contextmanager
    def _changing(self, name: str) -> Iterator[Path]:
        """Hold the lock and yield the folder of a model that may be changed."""
        check_name(name)
        with self._writing():
            folder = self.models / name
            if not folder.is_dir():
                raise self._is_bundled(name) if self._has_bundled(name) else self._no_such(name)
            yield folder

    def _chosen_default(self) -> str | None:
        try:
            return self._default_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def _names(self) -> list[str]:
        return sorted(staging.model_names(self.models) | staging.model_names(self._bundled))

    def _entry(self, name: str) -> Entry:
        try:
            return self._read(name)
        except SsdError:
            if not os.access(self.models, os.W_OK):
                raise
        # A writer may be replacing it at this moment, or a crash may have stopped one: the lock rules out both.
        with self._writing():
            return self._read(name)

    def _read(self, name: str) -> Entry:
        own = self.models / name
        if own.is_dir():
            return Entry(name, own, replace(read_manifest(own), name=name), bundled=False)
        if self._has_bundled(name):
            folder = self._bundled / name
            return Entry(name, folder, read_manifest(folder), bundled=True)
        raise self._no_such(name)

    def _entry_or_problem(self, name: str) -> Entry | str | None:
        """The model, what is wrong with it, or None if it was removed meanwhile."""
        try:
            return self._entry(check_name(name))
        except NoSuchModel:
            return None
        except SsdError as error:
            return error.problem

    def _check_free(self, name: str, overwrite: bool, renamed: bool = False) -> None:
        if (self.models / name).exists():
            if not overwrite:
                remedy = "Choose another." if renamed else f"Pass --overwrite to replace it, or {_OTHERWISE}."
                raise UsageError(f"{name!r} exists already.", remedy)
        elif self._has_bundled(name):
            raise self._is_bundled(name, "Choose another." if renamed else f"{_OTHERWISE.capitalize()}.")

    def _has_bundled(self, name: str) -> bool:
        return (self._bundled / name).is_dir()

    def _no_such(self, name: str) -> NoSuchModel:
        remedy = f"{suggest(name, self._names())} See 'ssd models list'."
        return NoSuchModel(f"no model named {name!r}.", remedy.strip())

    def _is_bundled(self, name: str, remedy: str = "Name another model.") -> UsageError:
        return UsageError(f"{name!r} comes with ssd and cannot be changed.", remedy)


def _seal(folder: Path, name: str) -> None:
    """Complete the manifest with name and digests, make everything private, and force it to the disk."""
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, name=name, files=_digests(folder, manifest.files)))
    close_to_others(folder)
    sync_tree(folder)


def _digests(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """The table of files for a folder's manifest; known: digests of files that the writer has checked already."""
    listed = {path.relative_to(folder).as_posix(): path for path in files_below(folder) if path != folder / FILE}
    return {file: known.get(file) or digest(path) for file, path in listed.items()}
