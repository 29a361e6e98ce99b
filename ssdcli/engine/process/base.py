"""The one interface of noise processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.nucleus import Picker

# What a canvas is depends on its process: (B, L, V) float32 for simplex, (B, L) int64 token ids for masked.
Canvas = Tensor


class EmbeddingSpace(Protocol):
    """What a process asks of a model: the ways into its embedding space."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: tokens (B, L) int64 to (B, L, H)."""
        ...

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings under a distribution: p (B, L, V) to (B, L, H)."""
        ...


class Process(Protocol):
    """A way to destroy a canvas (t from 0 to 1) and to denoise it (t from 1 to 0)."""

    name: str
    timed: bool  # whether the model is told the noise level
    hears_itself: bool  # whether the previous prediction is an input (self-conditioning)
    default_steps: int

    def constants(self) -> Mapping[str, float]:
        """The numbers that a manifest keeps, such that `make_process` builds this process again."""
        ...

    def prior(self, length: int, noise: Noise) -> Canvas:
        """A canvas of pure noise (t = 1), one row for each row of the noise."""
        ...

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Canvas:
        """Noise clean tokens (B, L) int64 to the levels t (B, L) in [0, 1]."""
        ...

    def embed(self, canvas: Canvas, space: EmbeddingSpace) -> Tensor:
        """The model's input at canvas positions, before timestep and self-conditioning: (B, L, H)."""
        ...

    def loss_weights(self, canvas: Canvas, t: Tensor) -> Tensor:
        """The weight of each position's cross-entropy in the objective: (B, L) float32, zero where none is due."""
        ...

    def step(self, canvas: Canvas, log_p: Tensor, times: tuple[float, float], picker: Picker, noise: Noise) -> Canvas:
        """Denoise from times[0] to the lower times[1], given log p of the clean tokens (B, L, V)."""
        ...

    def tokens(self, canvas: Canvas) -> Tensor:
        """The tokens that a canvas at t = 0 holds: (B, L) int64."""
        ...
