"""A noise process in one file: tokens drift along a ring of ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.process import EmbeddingSpace


def ring(vocabulary: int, constants: Mapping[str, float]) -> Ring:
    """The process that a manifest describes."""
    return Ring(vocabulary, constants["turns"])


@dataclass(frozen=True)
class Ring:
    """At level t a token is shifted by up to `turns` * t rounds, uniformly: with whole turns, t = 1 is pure noise."""

    vocabulary: int
    turns: float

    name = "ring"
    timed = True
    mixes = False
    self_conditioned = False
    hides = False
    bounded = False
    nelbo = None

    def constants(self) -> Mapping[str, float]:
        return {"turns": self.turns}

    def prior(self, length: int, noise: Noise) -> Tensor:
        tokens = torch.zeros_like(noise.uniform(length), dtype=torch.int64)
        return self.corrupt(tokens, torch.ones_like(tokens), noise)

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        shift = noise.uniform(tokens.shape[1]) * t * self.turns * self.vocabulary
        return (tokens + shift.long()) % self.vocabulary

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        return space.embed(canvas)

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float32)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        return log_p

    def shows(self, canvas: Tensor) -> Tensor:
        return torch.ones_like(canvas, dtype=torch.bool)

    def tokens(self, canvas: Tensor) -> Tensor:
        return canvas
