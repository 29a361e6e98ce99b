"""The one interface of noise processes: how clean tokens are destroyed. How they come back is in `sampling`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from ssdcli.engine.noise import Noise

# What a canvas is depends on its process: (B, L, V) float32 or (B, L, 2, S) float32 for simplex, dense or sparse;
# (B, L) int64 for masked (token ids) and uniform (see there). The first two dimensions are rows and positions for all.
Canvas = Tensor

# log p (N, V), the clean tokens, those that the canvas shows, and the noise levels, (N,) each, to nats (N,).
Nelbo = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class EmbeddingSpace(Protocol):
    """What a process asks of a model: the ways into its embedding space."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: tokens (B, L) int64 to (B, L, H)."""

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings under a distribution: p (B, L, V) to (B, L, H)."""

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings, what is left of 1 being spread evenly over all: (B, L, S) to (B, L, H).

        ids: int64. weights: float32, of any sign.
        """


class Process(Protocol):
    """A way to destroy a canvas: at level t = 0 it is clean, at t = 1 it is pure noise.

    name: as in the catalogue.
    mixes: whether the model reads a mixture of all embeddings at each position of a canvas.
    self_conditioned: whether the previous prediction is an input.
    hides: whether noise leaves nothing of a token to see where it stands.
    bounded: whether the loss is a NELBO, which bounds the code length from above.
    """

    name: str
    mixes: bool
    self_conditioned: bool
    hides: bool
    bounded: bool

    @property
    def vocabulary(self) -> int:
        """V: how many ids there are."""

    @property
    def timed(self) -> bool:
        """Whether the model is told the noise level."""

    @property
    def nelbo(self) -> Nelbo | None:
        """The terms of the NELBO; None where they are cross-entropy at the loss weights, or there is no NELBO."""

    def constants(self) -> Mapping[str, float]:
        """The numbers that a manifest keeps, such that `make_process` builds this process again."""

    def prior(self, length: int, noise: Noise) -> Canvas:
        """A canvas of pure noise (t = 1), one row for each row of the noise."""

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Canvas:
        """Noise clean tokens (B, L) int64 to the levels t (B, L) in [0, 1]."""

    def embed(self, canvas: Canvas, space: EmbeddingSpace) -> Tensor:
        """The model's input at canvas positions, before timestep and self-conditioning: (B, L, H)."""

    def loss_weights(self, canvas: Canvas, t: Tensor) -> Tensor:
        """The weight of each position's cross-entropy in the objective: (B, L) float32, zero where none is due."""

    def carry_over(self, canvas: Canvas, log_p: Tensor) -> Tensor:
        """Log p (B, L, V) with certainty where the canvas leaves no doubt about the clean token."""

    def shows(self, canvas: Canvas) -> Tensor:
        """Where a canvas shows a token, which `tokens` names, rather than noise: (B, L) bool."""

    def tokens(self, canvas: Canvas) -> Tensor:
        """The tokens that a canvas at t = 0 holds: (B, L) int64."""
