"""The one interface of noise processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.stopping import EarlyStop

# What a canvas is depends on its process: (B, L, V) float32 or (B, L, 2, S) float32 for simplex, dense or sparse;
# (B, L) int64 for masked (token ids) and uniform (see there). The first two dimensions are rows and positions for all.
Canvas = Tensor

Times = tuple[float, Tensor]  # the level t of a canvas, and each row's lower level s: (B,) float64


class EmbeddingSpace(Protocol):
    """What a process asks of a model: the ways into its embedding space."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: tokens (B, L) int64 to (B, L, H)."""
        ...

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings under a distribution: p (B, L, V) to (B, L, H)."""
        ...

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings, what is left of 1 being spread evenly over all: (B, L, S) to (B, L, H).

        ids: int64. weights: float32, of any sign.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How the reverse step chooses: a name that the process knows (None: its first), that name's number, remasking.

    remask: the probability with which a step takes a known token back, where the process can.
    """

    name: str | None = None
    value: float | None = None
    remask: float = 0.0

    def name_among(self, known: Sequence[str]) -> str:
        """The name, or the first one known when there is none; ValueError names those known."""
        if self.name is not None and self.name not in known:
            raise ValueError(f"unknown sampling {self.name!r}: known are {', '.join(known)}")
        return known[0] if self.name is None else self.name

    def forbid_remasking(self) -> None:
        """Raise ValueError where remasking is asked for."""
        if self.remask != 0:
            raise ValueError("only the masked process takes known tokens back")


class Process(Protocol):
    """A way to destroy a canvas (t from 0 to 1) and to denoise it (t from 1 to 0)."""

    name: str
    mixes: bool  # whether the model reads a mixture of all embeddings at each position of a canvas
    self_conditioned: bool  # whether the previous prediction is an input (self-conditioning)

    @property
    def vocabulary(self) -> int:
        """V: how many ids there are."""
        ...

    @property
    def timed(self) -> bool:
        """Whether the model is told the noise level."""
        ...

    @property
    def default_steps(self) -> int:
        """How many steps a block takes, unless told otherwise."""
        ...

    @property
    def early_stop(self) -> EarlyStop | None:
        """When a row stops before its time, unless told otherwise."""
        ...

    @property
    def temperatures(self) -> tuple[float, float]:
        """Of predictions at t = 1 and at t = 0, before any that is asked for; between them it falls with t."""
        ...

    @property
    def samplings(self) -> tuple[str, ...]:
        """The names that `sampled_by` knows, the default first."""
        ...

    def sampled_by(self, sampling: Sampling) -> Process:
        """Return this process with another reverse step; ValueError says what is wrong with the name or the number."""
        ...

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

    def carry_over(self, canvas: Canvas, log_p: Tensor) -> Tensor:
        """Log p (B, L, V) with certainty where the canvas leaves no doubt about the clean token."""
        ...

    def step(self, canvas: Canvas, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Canvas:
        """Denoise from t to each row's s, given log p of the clean tokens (B, L, V); at s = 0 the canvas is clean."""
        ...

    def decided(self, before: Canvas, after: Canvas) -> Tensor:
        """The positions for which this step chose a token that the canvas did not show before: (B, L) bool."""
        ...

    def finished(self, canvas: Canvas) -> Tensor:
        """The rows that no further step would change: (B,) bool."""
        ...

    def tokens(self, canvas: Canvas) -> Tensor:
        """The tokens that a canvas at t = 0 holds: (B, L) int64."""
        ...
