"""A sampler in one file: all tokens are drawn and noised to a level lower than asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import ReverseProcess, Times


@dataclass(frozen=True)
class Redrawing:
    """haste: the power that the level s is raised to."""

    process: Any
    haste: float

    def reverse(self) -> ReverseProcess:
        return ReverseProcess(self, steps=4)

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        tokens = picker.draw(prediction.log_p, noise)
        return self.process.corrupt(tokens, times[1][:, None].expand_as(tokens) ** self.haste, noise)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        return before != after

    def finished(self, canvas: Tensor) -> Tensor:
        return torch.zeros(len(canvas), dtype=torch.bool, device=canvas.device)
