"""The weights of a LoRA adapter as they are stored, added to those of its base without peft, which takes seconds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

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

    def joined(self, name: str, weight: Tensor) -> Tensor:
        """A tensor of the base with what the adapter adds to it: W + (alpha / r) B A, in W's dtype or float32."""
        path = f"{_OF_BASE}{name.removesuffix('.weight')}"
        first, second = (self.tensors.get(f"{path}.lora_{part}.weight") for part in "AB")
        if first is None or second is None:
            return weight
        return weight.float().addmm(second.float(), first.float(), alpha=self.scale)
