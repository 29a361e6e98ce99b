"""Any registered model, made here or pulled, behind the engine's Backbone.

What needs transformers is imported where it is used: that takes seconds, and a packed core with small models that read
it, or with memories, needs none of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from ssdcli.engine.causal import CausalBackbone, CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.denoiser import Backbone, Denoiser
from ssdcli.engine.full_attention import BlockCachedDenoiser, FullDenoiser
from ssdcli.engine.process import Process
from ssdcli.machine.hardware import look
from ssdcli.machine.placement import AUTO, QUANTIZED, Placement
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork, load_side_network
from ssdcli.models.core_checkpoint import load_core
from ssdcli.models.core_config import read_config, unreadable
from ssdcli.models.core_spec import KEY
from ssdcli.registry.manifest import read_manifest

if TYPE_CHECKING:
    from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM


def load_model(folder: Path, placement: Placement, block_size: int, adapter: Path | None = None) -> Backbone:
    """Read a model, ready for inference; SsdError if it cannot be read.

    block_size: of the canvases; a model with a block size of its own must have this one. adapter: the folder of an
    adapter to load on this model.
    """
    if adapter is None:
        return load_core(folder, placement, block_size) if _is_pulled(folder) else _small(folder, placement)
    if read_manifest(adapter).attention == "autoregressive":
        return load_core(folder, placement, block_size, adapter)
    from ssdcli.models.lora import join_adapter

    model = _base(folder, placement, adapter)
    join_adapter(model, adapter)
    return model


def load_reader(folder: Path, core: Backbone) -> SideNetwork:
    """Read a small model that reads this core's states; SsdError if it cannot be read or the core has none."""
    if not isinstance(core, CausalCore):
        raise unreadable(folder, ValueError("its core is no causal language model"))
    return load_side_network(folder, core)


def _is_pulled(folder: Path) -> bool:
    return KEY in read_config(folder)


def _small(folder: Path, placement: Placement) -> BlockDiffusionLM:
    from ssdcli.models.block_diffusion_checkpoint import load_backbone

    return load_backbone(folder, getattr(torch, placement.small), placement.main_device(look()))


def _base(folder: Path, placement: Placement, adapter: Path) -> BlockDiffusionLM:
    """An adapter's base: a model made here, or a pulled one, read as it was when the adapter was trained."""
    if not _is_pulled(folder):
        return _small(folder, placement)
    from ssdcli.models.block_diffusion_checkpoint import read_configuration
    from ssdcli.models.initialization import initialize_again
    from ssdcli.models.native_checkpoint import frozen_dtype

    chosen = placement.dtype not in (AUTO, *QUANTIZED)
    dtype = getattr(torch, placement.dtype) if chosen else frozen_dtype(folder)
    model = initialize_again(folder, read_configuration(adapter), dtype)
    return model.to(placement.main_device(look())).eval().requires_grad_(False)


def make_denoiser(backbone: Backbone, attention: str, process: Process, *, cache: bool = False) -> Denoiser:
    """The denoiser for a manifest's attention; cache: as in `Placement`, for "full" alone."""
    if attention == "autoregressive":
        by_token = backbone.device.type in ("cpu", "meta")  # "meta": a model without weights, whose costs are asked for
        kind = StepwiseCausalDenoiser if by_token else CausalDenoiser
        return kind(cast(CausalBackbone, backbone), process)
    if attention != "full":
        return Denoiser(backbone, process)
    return BlockCachedDenoiser(backbone, process) if cache else FullDenoiser(backbone, process)
