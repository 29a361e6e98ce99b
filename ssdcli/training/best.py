"""The best weights that a training has had, by its held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssdcli.registry.schema import tensor_name


class Best:
    """Keeps a copy of the weights with the lowest held-out loss so far.

    step, loss: when that was, and the loss in nats per token. worse: how many measurements have been no better since.
    """

    FILE = "best.safetensors"

    def __init__(self) -> None:
        """Begin with nothing."""
        self.step = 0
        self.loss = math.inf
        self.worse = 0
        self._weights: Mapping[str, Tensor] = {}

    def offer(self, step: int, loss: float, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Take a copy of the weights if they are better than all before; what is no number is not."""
        if loss < self.loss:
            self.step, self.loss, self.worse = step, loss, 0
            self._weights = {name: value.detach().cpu().clone() for name, value in weights().items()}
        else:
            self.worse += 1

    def give(self, model: nn.Module) -> None:
        """Put the kept weights into the model, if there are any."""
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self._weights.items():
                own[name].copy_(value)

    def save(self, folder: Path) -> None:
        """Write what is kept into a folder."""
        if self._weights:
            facts = {"step": str(self.step), "loss": repr(self.loss), "worse": str(self.worse)}
            save_file(dict(self._weights), folder / self.FILE, facts)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote, if it did."""
        path = folder / self.FILE
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            names = file.keys()  # the file is no mapping
            self._weights = {tensor_name(name): file.get_tensor(name) for name in names}
        self.step, self.loss, self.worse = int(facts["step"]), float(facts["loss"]), int(facts["worse"])
