"""What a core dictates to the small models that are made for it, read without loading the core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssdcli.models.core import input_embeddings, read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.folder import load_backbone


@dataclass(frozen=True)
class Mould:
    """A core's vocabulary: the clean tokens' embeddings (V, H) float32, and the ids that are never text."""

    embeddings: Tensor
    suppressed: tuple[int, ...]


def read_mould(folder: Path) -> Mould:
    """The mould of a registered core, made here or pulled; SsdError if it cannot be read."""
    config = read_config(folder)
    if KEY in config:
        return Mould(input_embeddings(folder, config), tuple(config[KEY]["suppressed"]))
    core = load_backbone(folder)
    everything = torch.arange(core.config.vocabulary)
    return Mould(core.embed(everything[None])[0], core.config.suppressed)
