"""Where a core runs and how its weights are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Placement:
    """dtype: "auto", "float32", "bfloat16" or "float16". device: "auto" or one of torch's."""

    dtype: str = "auto"
    device: str = "auto"

    def arguments(self, config: Any) -> dict[str, Any]:
        """What `from_pretrained` is given."""
        return {"dtype": torch.float32, "device_map": self.where}

    @property
    def where(self) -> str:
        """The device that canvases are on."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
