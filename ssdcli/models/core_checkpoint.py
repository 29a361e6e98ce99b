"""A registered core in a folder: packed for this CPU where its class allows, else run by its class in transformers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ssdcli.machine.hardware import look
from ssdcli.machine.placement import Allocation, Placement
from ssdcli.models.backbones.causal import PackedCausalBackbone
from ssdcli.models.backbones.core_backbone import CoreBackbone
from ssdcli.models.backbones.packed_decoder import Weights
from ssdcli.models.backbones.packed_linear import IN_16_BITS, PACKINGS, Packing
from ssdcli.models.core_config import UNREADABLE, completed, native_part, read_config, unreadable
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.weights.adapted import AdapterWeights
from ssdcli.models.weights.packed_file import kept_in_4_bits
from ssdcli.models.weights.stored import core_need, weight_files
from ssdcli.registry.manifest import read_manifest


def load_core(folder: Path, placement: Placement, block_size: int | None, adapter: Path | None = None) -> CoreBackbone:
    """Read a registered core, ready for inference; SsdError if files are missing or contradict each other.

    block_size: replaces the one that a core with full attention proposes. adapter: the folder of an adapter to load on
    a causal core.
    """
    config = read_config(folder)
    try:
        spec = CoreSpec.of(read_manifest(folder), config[KEY])
        spec = replace(spec, block_size=block_size or spec.block_size)
        need = core_need(folder, config, spec)
        allocation = placement.allocate(need, look())
        if need.packs and allocation.packs:
            return _packed(folder, spec, packing_for(allocation), adapter)
        from ssdcli.models.native_checkpoint import load_native  # it imports transformers, which takes seconds

        backbone = load_native(folder, allocation, need, spec)
        if adapter is not None:
            from ssdcli.models.lora import join_adapter

            join_adapter(backbone, adapter)
        return backbone
    except UNREADABLE as error:
        raise unreadable(folder, error) from error


def packing_for(allocation: Allocation) -> Packing:
    """How layers are packed for a dtype: in 16 bits alone where more would take too much memory."""
    once = allocation.dtype == "bfloat16" and not allocation.packs_twice
    return IN_16_BITS if once else PACKINGS[allocation.dtype]


def _packed(folder: Path, spec: CoreSpec, packing: Packing, adapter: Path | None) -> PackedCausalBackbone:
    """Read a core's tensors and what an adapter adds to them, and pack them, one after the other."""
    with ExitStack() as stack, kept_in_4_bits(folder) as in_4_bits:
        files = [stack.enter_context(safe_open(path, "pt")) for path in weight_files(folder)]
        places = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        updates = AdapterWeights({}, 0.0) if adapter is None else AdapterWeights.read(adapter, places)

        def read(name: str) -> Tensor | None:
            return places[name].get_tensor(name) if name in places else None

        weights = Weights(read, packing, updates.update, in_4_bits)
        return PackedCausalBackbone(completed(native_part(read_config(folder))), weights, spec)
