"""The machine as ssd sees it: what there is to run models on, what is installed, and the registry's health."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssdcli.doctor.fit import need_of_entry, summary
from ssdcli.errors import SsdError
from ssdcli.hub.download import cache_folder, is_offline
from ssdcli.machine.hardware import Hardware, look
from ssdcli.registry.store import Entry, Registry

_PACKAGES = ("ssdcli", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "bitsandbytes")


@dataclass(frozen=True)
class Checkup:
    """What was found.

    hardware: devices and memory.
    disks: the free bytes of the disks that hold SSD_HOME and the hub's cache, by folder.
    versions: of packages; None for one that is missing.
    offline: whether the network must not be used.
    models: how many are registered.
    problems: what is broken, by model.
    cores: how each core would run here, by name.
    """

    hardware: Hardware
    disks: dict[str, int]
    versions: dict[str, str | None]
    offline: bool
    models: int
    problems: dict[str, str]
    cores: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


def examine(registry: Registry) -> Checkup:
    """Examine the machine and the registry without reading any weights."""
    hardware, entries = look(), registry.entries()
    problems = registry.broken() | {entry.name: lack for entry in entries if (lack := _lack(entry)) is not None}
    cores = [entry for entry in entries if entry.manifest.kind == "core" and entry.name not in problems]
    return Checkup(
        hardware=hardware,
        disks={str(folder): _free(folder) for folder in (registry.home, cache_folder())},
        versions={package: _version(package) for package in _PACKAGES},
        offline=is_offline(),
        models=len(entries),
        problems=problems,
        cores={entry.name: _fit(entry, hardware) for entry in cores},
    )


def _lack(entry: Entry) -> str | None:
    """The files that a model lacks, as a sentence; None if it has all."""
    files = entry.manifest.files
    missing = [file for file in files if not (entry.folder / file).is_file()]
    if missing:
        return f"{', '.join(missing)} is missing; pull, train or import it again."
    return None if files else "its manifest lists no files; make or pull it again."


def _fit(entry: Entry, hardware: Hardware) -> str:
    try:
        return summary(need_of_entry(entry), hardware)
    except SsdError as error:
        return str(error)


def _free(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
