"""Any registered model, made here or pulled, behind the engine's Backbone."""

from __future__ import annotations

from pathlib import Path

from ssdcli.engine.denoiser import Backbone, Denoiser, FullDenoiser
from ssdcli.engine.process import Process
from ssdcli.models.core import load_core, read_config
from ssdcli.models.folder import load_backbone
from ssdcli.models.placement import Placement
from ssdcli.models.spec import KEY


def load_model(folder: Path, placement: Placement, block_size: int) -> Backbone:
    """Read a model, ready for inference; SsdError if it cannot be read.

    block_size: of the canvases; models that are not free in it have their own, and it must be this one.
    """
    config = read_config(folder)
    if KEY in config:
        return load_core(folder, config, placement, block_size)
    return load_backbone(folder, device=placement.where)


def make_denoiser(backbone: Backbone, attention: str, process: Process) -> Denoiser:
    """The denoiser for a manifest's attention."""
    return FullDenoiser(backbone, process) if attention == "full" else Denoiser(backbone, process)
