"""Whether a core fits on this machine, told without importing the libraries that run it where that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssdcli.errors import SsdError
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import FREE, Allocation, Need, Placement
from ssdcli.machine.units import in_bytes
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.weights.stored import core_need

if TYPE_CHECKING:
    from ssdcli.registry.store import Entry


def need_of_entry(entry: Entry) -> Need:
    """What a registered core needs; SsdError if it cannot be read."""
    config, manifest = read_config(entry.folder), entry.manifest
    if KEY in config:
        return core_need(entry.folder, config, CoreSpec.of(manifest, config[KEY]))
    predictions = manifest.vocabulary * manifest.block_size
    return Need(manifest.parameters, 0, manifest.parameters, 0, "float32", predictions, divisible=False)


def summary(need: Need, hardware: Hardware, placement: Placement = FREE) -> str:
    """One sentence: how a core would be held, or why it cannot be."""
    try:
        return held(placement.allocate(need, hardware))
    except SsdError as error:
        return str(error)


def held(allocation: Allocation) -> str:
    """One sentence: how a core is held by an allocation."""
    where = " and ".join(allocation.devices)
    if allocation.processes > 1:
        where += f", a part in each of {allocation.processes} processes"
    if allocation.offloads:
        where += ", with layers kept in memory or on disk"
    taken, free = in_bytes(allocation.bytes), in_bytes(allocation.free)
    return f"{allocation.dtype} on {where}: takes {taken} of the {free} that are free."
