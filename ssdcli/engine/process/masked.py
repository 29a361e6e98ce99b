"""The masked (absorbing) process of MDLM and LLaDA: each token is hidden with probability t."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.noise import Noise
from ssdcli.engine.process.process import EmbeddingSpace

_USUAL = dict(catalogue.process("masked").constants)


def masked(vocabulary: int, constants: Mapping[str, float]) -> Masked:
    """The process that a manifest describes."""
    return Masked(vocabulary, mask_id=int(constants["mask_id"]), t_min=(_USUAL | dict(constants))["t_min"])


@dataclass(frozen=True)
class Masked:
    """Linear schedule: at level t a token is the mask with probability t, independently of the others.

    vocabulary: V, the mask included.
    mask_id: the id that hides a token.
    t_min: the lowest level that the objective's weights tell apart.
    """

    vocabulary: int
    mask_id: int
    t_min: float = _USUAL["t_min"]

    name = "masked"
    timed = False  # the canvas shows the level: it is the share of masks
    mixes = False
    self_conditioned = False
    hides = True
    bounded = True
    nelbo = None

    def constants(self) -> Mapping[str, float]:
        """The mask's token id, and the lowest level."""
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
        """1/t at masked positions (the NELBO of the linear schedule, Sahoo et al., 2024), zero elsewhere: (B, L).

        In continuous time the NELBO is the integral of -alpha'(t) / (1 - alpha(t)) times the cross-entropy of what is
        masked; with alpha(t) = 1 - t that is 1/t. A masked token is met with probability t, so that each token counts
        once on average.
        """
        return torch.where(canvas == self.mask_id, 1 / t.clamp(min=self.t_min), 0.0)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        """Known tokens are certain (SUBS of MDLM, Sahoo et al., 2024): models are not trained to repeat them."""
        known, own = (canvas != self.mask_id)[..., None], canvas[..., None]
        certain = torch.where(known, 0.0, log_p.gather(-1, own))
        return log_p.masked_fill(known, -math.inf).scatter_(-1, own, certain)

    def shows(self, canvas: Tensor) -> Tensor:
        """Where there is no mask."""
        return canvas != self.mask_id

    def tokens(self, canvas: Tensor) -> Tensor:
        """The canvas itself."""
        return canvas
