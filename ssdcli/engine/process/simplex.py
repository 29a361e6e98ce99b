"""The simplex process of SSD-LM (Han et al., ACL 2023): Gaussian noise on almost-one-hot logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.nucleus import Picker
from ssdcli.engine.process.base import EmbeddingSpace


@dataclass(frozen=True)
class Simplex:
    """A token w is the vector +K at w and -K elsewhere; noise of standard deviation K replaces it as t grows."""

    vocabulary: int
    K: float = 5.0
    s: float = 1e-4

    name = "simplex"
    timed = True
    hears_itself = True
    default_steps = 32

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Simplex:
        """Rebuild the process that a manifest describes."""
        return cls(vocabulary, K=constants["K"], s=constants["s"])

    def constants(self) -> Mapping[str, float]:
        """K (the logits' magnitude) and s (the schedule's offset)."""
        return {"K": self.K, "s": self.s}

    def abar(self, t: Tensor) -> Tensor:
        """Share of signal left at level t, cosine schedule normalised to abar(0) = 1 (Nichol and Dhariwal, 2021)."""
        angle = (t + self.s) / (1 + self.s) * (math.pi / 2)
        start = math.cos(self.s / (1 + self.s) * (math.pi / 2))
        return ((angle.cos() / start) ** 2).clamp(0, 1)

    def prior(self, length: int, noise: Noise) -> Tensor:
        """K times standard normal logits: (B, L, V)."""
        return noise.normal(length, self.vocabulary) * self.K

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """x_t = sqrt(abar) * (+-K one-hot) + sqrt(1 - abar) * K * eps: (B, L, V) float32."""
        abar = self.abar(t.float())[..., None]
        signal = abar.sqrt() * self.K
        x = noise.normal(tokens.shape[1], self.vocabulary)
        x.mul_((1 - abar).sqrt() * self.K).sub_(signal)
        return x.scatter_add_(-1, tokens[..., None], 2 * signal)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """softmax(x_t) @ W_in."""
        return space.embed_mixture(torch.softmax(canvas, dim=-1))

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """Every position counts the same: (B, L)."""
        return torch.ones_like(t, dtype=torch.float32)

    def step(self, canvas: Tensor, log_p: Tensor, times: tuple[float, float], picker: Picker, noise: Noise) -> Tensor:
        """Project the prediction onto one token a position, and noise that token to the lower level afresh."""
        tokens = picker.draw(log_p, noise.uniform(log_p.shape[1]))
        level = torch.full(tokens.shape, times[1], device=tokens.device)
        return self.corrupt(tokens, level, noise)

    def tokens(self, canvas: Tensor) -> Tensor:
        """The largest logit of each position."""
        return canvas.argmax(-1)
