"""Any registered model, made here or pulled, behind the engine's Backbone."""

from __future__ import annotations

from pathlib import Path

import torch

from ssdcli.engine.denoiser import Backbone, BlockCachedDenoiser, Denoiser, FullDenoiser
from ssdcli.engine.process import Process
from ssdcli.models.adapter import merge_adapter
from ssdcli.models.backbone import BlockDiffusionLM
from ssdcli.models.core import load_core, read_config
from ssdcli.models.folder import load_backbone
from ssdcli.models.hardware import look
from ssdcli.models.native import NativeBackbone
from ssdcli.models.placement import Placement
from ssdcli.models.spec import KEY


def load_model(folder: Path, placement: Placement, block_size: int, adapter: Path | None = None) -> Backbone:
    """Read a model, ready for inference; SsdError if it cannot be read.

    block_size: of the canvases; models that are not free in it have their own, and it must be this one. adapter: the
    folder of one that is added to the weights.
    """
    model = _load(folder, placement, block_size)
    if adapter is not None:
        merge_adapter(model, adapter)
    return model


def _load(folder: Path, placement: Placement, block_size: int) -> NativeBackbone | BlockDiffusionLM:
    config = read_config(folder)
    if KEY in config:
        return load_core(folder, config, placement, block_size)
    return load_backbone(folder, getattr(torch, placement.small), placement.main_device(look()))


def make_denoiser(backbone: Backbone, attention: str, process: Process, *, cache: bool = False) -> Denoiser:
    """The denoiser for a manifest's attention; `cache` as in `Placement`: it makes a difference for "full" alone."""
    if attention != "full":
        return Denoiser(backbone, process)
    return BlockCachedDenoiser(backbone, process) if cache else FullDenoiser(backbone, process)
