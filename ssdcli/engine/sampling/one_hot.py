"""The reverse step of SSD-LM: every position is projected onto one token, and noised afresh."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import ReverseProcess, Times

_STEPS = 64  # of models that were trained here


@dataclass(frozen=True)
class OneHot:
    """A token w' drawn from the nucleus of each position is at +K, all others are at -K."""

    process: Simplex

    def reverse(self) -> ReverseProcess:
        """As many steps a block as the checkpoint was published with."""
        return ReverseProcess(self, int(self.process.published.get("steps", _STEPS)))

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """x_s = sqrt(abar_s) * (+-K one-hot of w') + sqrt(1 - abar_s) * K * z with fresh z."""
        tokens = picker.draw(prediction.log_p, noise)
        return self.process.corrupt(tokens, times[1][:, None].expand_as(tokens), noise)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions that show another token: every step draws all of them, and most as the step before."""
        return self.process.tokens(before) != self.process.tokens(after)

    def finished(self, canvas: Tensor) -> Tensor:
        """None: a canvas does not show whether it is clean."""
        return torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)


@dataclass(frozen=True)
class MultiHot(OneHot):
    """Every token of the nucleus is at +K, so that none is chosen before the end."""

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Raise the nucleus of each position and noise it to the lower level; at s = 0, one token drawn from it."""
        log_p = prediction.log_p
        drawn = picker.draw(log_p, noise)
        lower = times[1][:, None].expand_as(drawn)
        return self.process.corrupt_nucleus(drawn, picker.probabilities(log_p), lower, noise)
