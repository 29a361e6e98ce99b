"""Ensembles by a name in one word, and those that are loaded."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ssdcli.errors import OutOfMemory, on_out_of_memory
from ssdcli.generation.blend import Blend
from ssdcli.generation.parts import read_members
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.machine.placement import FREE, Placement
from ssdcli.registry.manifest import MEMBERS
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Entry, Registry

if TYPE_CHECKING:
    from ssdcli.generation.writer import Writer

_KEPT = 4  # ensembles that stay loaded; those with the same core share it


def writes(entry: Entry) -> bool:
    """Whether a model can be asked for: a core, or what joins one."""
    manifest = entry.manifest
    return manifest.kind in MEMBERS or (manifest.kind == "core" and manifest.attention != "none")


def named(
    name: str, registry: Registry, members: Sequence[str] = (), blend: Blend | None = None, context: bool = False
) -> EnsembleSpec:
    """The ensemble of this name, such as `notes`, `smollm2`, `smollm2+notes=0.3` or `none+notes`, and more members."""
    first, *others = name.split("+")
    kinds = {entry.name: entry.manifest.kind for entry in registry.entries()}
    is_core = first == NO_CORE or kinds.get(first) == "core"
    small = read_members([*([] if is_core else [first]), *others, *members])
    return choose(first if is_core else None, small, registry, blend or Blend(), context=context)


class Ensembles:
    """Loaded ensembles: the latest stay loaded, and a model that several have is loaded once."""

    def __init__(self, placement: Placement = FREE) -> None:
        self._placement = placement
        self._kept: list[tuple[EnsembleSpec, Writer]] = []
        self._models: WeakValueDictionary[Any, Any] = WeakValueDictionary()

    def open(self, spec: EnsembleSpec) -> Writer:
        """The writer of an ensemble; a model that was trained anew is loaded anew (SsdError, OutOfMemory)."""
        writer = next((writer for known, writer in self._kept if known == spec), None) or self._load(spec)
        others = [(known, one) for known, one in self._kept if known != spec]
        self._kept = [*others[1 - _KEPT :], (spec, writer)]
        return writer

    def _load(self, spec: EnsembleSpec) -> Writer:
        with on_out_of_memory("Ask for a smaller model."):
            try:
                writer = spec.open(self._placement, self._models)
            except OutOfMemory:
                self._kept = []  # perhaps it fits alone
                gc.collect()
                writer = spec.open(self._placement, self._models)
        _let_read(writer)
        return writer


def _let_read(writer: Writer) -> None:
    """Let causal cores show what small models read, before one that is loaded later asks for it amid a text."""
    from ssdcli.generation.loaded_model import core_of, models_of
    from ssdcli.models.backbones.causal import CausalCore

    for core in (core_of(one.model) for one in models_of(writer.members)):
        if isinstance(core, CausalCore) and not core.taps:
            core.tap(core.middle_layers)
