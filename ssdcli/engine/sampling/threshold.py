"""Threshold unmasking (Fast-dLLM, Wu et al., 2025): all positions that are sure enough."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.unmasking import Unmasking


@dataclass(frozen=True)
class Threshold(Unmasking):
    """All positions whose largest probability reaches the threshold, one at least."""

    threshold: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by the largest probability; those that reach the threshold."""
        confidence = prediction.log_p.amax(-1).exp()
        return -confidence, (hidden & (confidence >= self.threshold)).sum(-1).clamp(min=1)
