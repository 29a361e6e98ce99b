"""The masked (absorbing) process of MDLM and LLaDA: each token is hidden with probability t."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.nucleus import Picker, entropy
from ssdcli.engine.process.base import EmbeddingSpace


@dataclass(frozen=True)
class Masked:
    """Linear schedule: at level t a token is the mask with probability t, independently of the others."""

    vocabulary: int
    mask_id: int
    t_min: float = 1e-3

    name = "masked"
    timed = False
    hears_itself = False
    default_steps = 16

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Masked:
        """Rebuild the process that a manifest describes."""
        return cls(vocabulary, mask_id=int(constants["mask_id"]), t_min=constants.get("t_min", 1e-3))

    def constants(self) -> Mapping[str, float]:
        """The mask's token id, and the lowest level that the objective visits."""
        return {"mask_id": self.mask_id, "t_min": self.t_min}

    def prior(self, length: int, noise: Noise) -> Tensor:
        """All masks: (B, L) int64."""
        return torch.full_like(noise.uniform(length), self.mask_id, dtype=torch.int64)

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Hide each token with probability t: (B, L) int64."""
        hidden = noise.uniform(tokens.shape[1]) < t
        return torch.where(hidden, self.mask_id, tokens)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """The embeddings of the tokens and masks."""
        return space.embed(canvas)

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """1/t at masked positions (the NELBO of the linear schedule, Sahoo et al., 2024), zero elsewhere: (B, L)."""
        return torch.where(canvas == self.mask_id, 1 / t.clamp(min=self.t_min), 0.0)

    def step(self, canvas: Tensor, log_p: Tensor, times: tuple[float, float], picker: Picker, noise: Noise) -> Tensor:
        """Unmask the surest positions until no more than a share times[1] of the canvas is hidden.

        Sureness is the entropy of the whole prediction and not the drawn token's own probability, so that with one
        position a step the joint distribution is sampled without bias, whatever the order.
        """
        hidden = canvas == self.mask_id
        drawn = picker.draw(log_p, noise.uniform(canvas.shape[1]))
        doubt = entropy(log_p.float()).masked_fill(~hidden, -math.inf)
        rank = doubt.argsort(dim=-1, stable=True).argsort(dim=-1)  # known positions come first, then the surest
        known = canvas.shape[1] - math.floor(canvas.shape[1] * times[1] + 1e-6)
        return torch.where(hidden & (rank < known), drawn, canvas)

    def tokens(self, canvas: Tensor) -> Tensor:
        """The canvas itself."""
        return canvas
