"""Ancestral unmasking: positions in random order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.unmasking import Unmasking


@dataclass(frozen=True)
class Ancestral(Unmasking):
    """Positions in a random order, all orders equally likely, at the pace of the noise level.

    With one position a step it is the first-hitting sampler (Zheng et al., 2025): exact for a model that is not told
    the noise level.
    """

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """A random order; nothing is revealed early."""
        return noise.uniform(hidden.shape[1]), torch.zeros_like(hidden[:, 0], dtype=torch.int64)
