"""The weights of a LoRA adapter as they are stored, read without peft, which takes seconds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from ssdcli.models.backbones.packed_linear import Update
from ssdcli.models.core_config import UNREADABLE, unreadable

_OF_BASE = "base_model.model."  # peft's name for the base in the names of an adapter's tensors
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # its files


@dataclass(frozen=True)
class AdapterWeights:
    """The matrices A (r, n) and B (m, r) of an adapter, by the names that peft gives them.

    scale: alpha / r.
    """

    tensors: Mapping[str, Tensor]
    scale: float

    @classmethod
    def read(cls, folder: Path, names: Collection[str]) -> AdapterWeights:
        """Read what `save_adapter` wrote, for a base with tensors of these names; SsdError for anything else."""
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS)
            for name in tensors:
                if f"{name.removeprefix(_OF_BASE).rpartition('.lora_')[0]}.weight" not in names:
                    raise ValueError("its base has other layers")
            return cls(tensors, config["lora_alpha"] / config["r"])
        except UNREADABLE as error:
            raise unreadable(folder, error) from error

    def update(self, name: str) -> Update | None:
        """What the adapter adds to a tensor of the base, (alpha / r) B A, if it adds anything."""
        path = f"{_OF_BASE}{name.removesuffix('.weight')}"
        down, up = (self.tensors.get(f"{path}.lora_{part}.weight") for part in "AB")
        return None if down is None or up is None else Update(down.float(), self.scale * up.float())
