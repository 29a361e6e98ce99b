"""The machine as ssd sees it: what there is to run models on, what is installed, and the registry's health."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssdcli.doctor.advice import HeldCore, fit_of_entry, how_long, next_steps, to_pull
from ssdcli.doctor.fit import bandwidth, held
from ssdcli.errors import SsdError
from ssdcli.hub.download import cache_folder, is_offline
from ssdcli.machine.hardware import Hardware, look
from ssdcli.machine.placement import CPU, Allocation
from ssdcli.machine.units import in_bytes
from ssdcli.registry.compatibility import misfit
from ssdcli.registry.manifest import MEMORY, Manifest
from ssdcli.registry.store import Entry, Registry


def problems(registry: Registry, entries: Sequence[Entry]) -> dict[str, str]:
    """Why models cannot be used and what mends them, by name."""
    again = "Remove it with 'ssd models rm {} --yes', then pull, train or import it again."
    found = {name: f"{problem} {again.format(name)}" for name, problem in registry.broken().items()}
    for entry in entries:
        missing = [file for file in entry.manifest.files if not (entry.folder / file).is_file()]
        if missing:
            found[entry.name] = f"{', '.join(missing)} is missing. {_made_again(entry.name, entry.manifest)}"
        elif not entry.manifest.files:
            found[entry.name] = f"its manifest lists no files. {_made_again(entry.name, entry.manifest)}"
        else:
            try:
                registry.origin_of(entry)
            except SsdError as error:
                found[entry.name] = str(error)
    return found


def _made_again(name: str, manifest: Manifest) -> str:
    """The command that makes a model again."""
    if manifest.source is not None:
        known = "/" in manifest.source  # else a file or folder of this machine, whose place is not kept
        place = manifest.source if known else "./WHERE-IT-IS"
        return f"Pull it again: 'ssd pull {place} --as {name} --overwrite'."
    if manifest.kind == MEMORY:
        return f"Build it again: 'ssd train-small DATA --update {name}'."
    core = "" if manifest.core is None else f" --for {manifest.core}"
    return f"Train it again: 'ssd train-small DATA{core} --name {name} --overwrite', or import it."


def loose_ends(registry: Registry, entries: Sequence[Entry]) -> Iterator[str]:
    """What can be used, but not as it was meant, in sentences: trainings that wait, and small models without a core."""
    from ssdcli.training.unfinished import has_checkpoint

    folder = registry.home / "training"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.name.startswith(".") and has_checkpoint(registry, path.name):
            yield f"The training of {path.name!r} was interrupted: 'ssd train-small --name {path.name} --resume'."
    known = {entry.name: entry.manifest for entry in registry.entries()}
    for entry in entries:
        core = entry.manifest.core
        if core is None or entry.manifest.origin is not None:
            continue
        if core not in known:
            yield f"{entry.name!r} was made for {core!r}, which is not here: pull that again under this name."
        elif (reason := misfit(entry.manifest, known[core])) is not None:
            yield f"{entry.name!r} does not fit {core!r}, for which it was made: {reason}. Train it again."


_PACKAGES = ("ssdcli", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "bitsandbytes")


@dataclass(frozen=True)
class Checkup:
    """What was found.

    hardware: devices and memory.
    bandwidth: bytes of weights that are read in a second, measured now.
    disks: the free bytes of the disks that hold SSD_HOME and the hub's cache, by folder.
    versions: of packages; None for one that is missing.
    offline: whether the network must not be used.
    models: how many are registered.
    problems: what is broken, by model, and what mends it.
    cores: how each core would run here, by name.
    tokens_per_second: that each core would write, by name; None where that cannot be told.
    to_pull: how known cores that are not registered would run here, by repository.
    training: how long one takes.
    next: what to do, in sentences.
    """

    hardware: Hardware
    bandwidth: float
    disks: dict[str, int]
    versions: dict[str, str | None]
    offline: bool
    models: int
    problems: dict[str, str]
    cores: dict[str, str]
    tokens_per_second: dict[str, float | None]
    to_pull: dict[str, str]
    training: str
    next: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def examine(registry: Registry) -> Checkup:
    """Examine the machine and the registry without reading any weights."""
    hardware, entries = look(), registry.entries()
    wrong = problems(registry, entries)
    whole = [entry for entry in entries if entry.name not in wrong]
    cores, fits = _cores([entry for entry in whole if entry.manifest.kind == "core"], hardware)
    used = registry.default()
    pullable = to_pull(entries, hardware)
    steps = [f"Mend what is broken first: {', '.join(wrong)}."] if wrong else next_steps(whole, used, pullable)
    where = hardware.accelerators[0].device if hardware.accelerators else CPU
    return Checkup(
        hardware=hardware,
        bandwidth=bandwidth("bfloat16" if hardware.accelerators or hardware.bfloat16 else "float32", where),
        disks={str(folder): _free(folder) for folder in (registry.home, cache_folder())},
        versions={package: _version(package) for package in _PACKAGES},
        offline=is_offline(),
        models=len(entries),
        problems=wrong,
        cores=cores,
        tokens_per_second={name: fit.pace for name, fit in fits.items()},
        to_pull={repo: _size(fit.allocation) + fit.spoken_pace for repo, fit in pullable.items()},
        training=how_long(next((entry for entry in whole if entry.name == used), None), fits.get(used)),
        next=(*loose_ends(registry, whole), *steps),
    )


def _cores(entries: Sequence[Entry], hardware: Hardware) -> tuple[dict[str, str], dict[str, HeldCore]]:
    """How each core would run here, in sentences, and more of those that fit."""
    said, fits = {}, {}
    for entry in entries:
        if entry.manifest.is_remote:
            said[entry.name] = f"runs elsewhere, as {entry.manifest.source}."
            continue
        try:
            fits[entry.name] = fit = fit_of_entry(entry, hardware)
            said[entry.name] = held(fit.allocation)[:-1] + fit.spoken_pace
        except SsdError as error:
            said[entry.name] = str(error)
    return said, fits


def _size(allocation: Allocation) -> str:
    return f"{in_bytes(allocation.bytes)} in {allocation.dtype}"


def _free(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
