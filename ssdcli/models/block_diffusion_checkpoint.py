"""A block-diffusion model in a folder: its weights in model.safetensors, its configuration in config.json."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.small_causal import new_network
from ssdcli.models.core_config import unreadable
from ssdcli.models.native_checkpoint import PROBLEMS
from ssdcli.registry.manifest import CONFIG, WEIGHTS


def save_backbone(model: BlockDiffusionLM, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the weights (stored as `dtype`) and the configuration."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    save_configuration(model.config, folder)


def save_configuration(config: BackboneConfig, folder: Path) -> None:
    """Write what `read_configuration` reads."""
    (folder / CONFIG).write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")


def read_configuration(folder: Path) -> BackboneConfig:
    """Read the configuration of a model that was made here; SsdError if there is none."""
    try:
        return BackboneConfig.from_json(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except PROBLEMS as error:
        raise unreadable(folder, error) from error


def load_backbone(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> BlockDiffusionLM:
    """Read a model, ready for inference; SsdError if files are missing or contradict each other.

    dtype: of the parameters. Buffers stay in float32: rounded rotary frequencies would visibly turn distant positions.
    """
    config = read_configuration(folder)
    try:
        model = new_network(config)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except PROBLEMS as error:
        raise unreadable(folder, error) from error
    model.requires_grad_(False)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model.to(device).eval()
