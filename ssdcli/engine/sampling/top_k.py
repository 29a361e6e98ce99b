"""Top-k unmasking: a fixed number of positions a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.engine.sampling.unmasking import Unmasking


@dataclass(frozen=True)
class TopK(Unmasking):
    """The positions of lowest entropy, k in each step; with k = 0, the noise level alone decides how many."""

    k: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; k."""
        return entropy(prediction.log_p), torch.full_like(hidden[:, 0], int(self.k), dtype=torch.int64)
