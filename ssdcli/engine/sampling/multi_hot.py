"""The multi-hot projection of SSD-LM (Han et al., ACL 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.one_hot import OneHot
from ssdcli.engine.sampling.reverse import Times


@dataclass(frozen=True)
class MultiHot(OneHot):
    """Every token of the nucleus is at +K, so that none is chosen before the end."""

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Raise the nucleus of each position and noise it to the lower level; at s = 0, one token drawn from it."""
        log_p = prediction.log_p
        drawn = picker.draw(log_p, noise)
        lower = times[1][:, None].expand_as(drawn)
        return self.process.corrupt_nucleus(drawn, picker.probabilities(log_p), lower, noise)
