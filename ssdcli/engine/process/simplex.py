"""The simplex process of SSD-LM (Han et al., ACL 2023): Gaussian noise on almost-one-hot logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.noise import Noise
from ssdcli.engine.process.process import EmbeddingSpace

_USUAL = catalogue.process("simplex").constants


@dataclass(frozen=True)
class Simplex:
    """A token w is the vector +K at w and -K elsewhere; noise of standard deviation K replaces it as t grows.

    vocabulary: V.
    K: the magnitude of the logits.
    s: the offset of the cosine schedule.
    published: constants for samplers, kept with those of the process.
    """

    vocabulary: int
    K: float = _USUAL["K"]
    s: float = _USUAL["s"]
    published: Mapping[str, float] = field(default_factory=dict, hash=False)

    name = "simplex"
    timed = True
    mixes = True
    self_conditioned = True
    hides = False
    bounded = False  # text is no sample of the process
    nelbo = None

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Simplex:
        """The process that a manifest describes."""
        published = catalogue.process(cls.name).for_samplers(constants)
        return cls(vocabulary, constants["K"], constants["s"], published)

    def constants(self) -> Mapping[str, float]:
        """K, s, and how the checkpoint was sampled."""
        return {"K": self.K, "s": self.s, **self.published}

    def abar(self, t: Tensor) -> Tensor:
        """Share of signal left at level t, cosine schedule normalised to abar(0) = 1 (Nichol and Dhariwal, 2021).

        The offset s keeps the noise of the first levels from vanishing; the clamp takes off what rounding leaves of
        cos(pi/2) at t = 1.
        """
        angle = (t + self.s) / (1 + self.s) * (math.pi / 2)
        start = math.cos(self.s / (1 + self.s) * (math.pi / 2))
        return ((angle.cos() / start) ** 2).clamp(0, 1)

    def prior(self, length: int, noise: Noise) -> Tensor:
        """K times standard normal logits: (B, L, V)."""
        return noise.normal(length, self.vocabulary) * self.K

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """x_t = sqrt(abar) * (+-K one-hot) + sqrt(1 - abar) * K * eps: (B, L, V) float32."""
        x, signal = self._ground(t, noise)
        return x.scatter_add_(-1, tokens[..., None], 2 * signal)

    def _ground(self, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Every token at -K and noised, (B, L, V), and K as it is at t, (B, L, 1).

        Raising a token from -K to +K then adds 2K sqrt(abar): the noise is drawn once, whatever is raised.
        """
        abar = self.abar(t.float())[..., None]
        signal = abar.sqrt() * self.K
        x = noise.normal(t.shape[1], self.vocabulary)
        return x.mul_((1 - abar).sqrt() * self.K).sub_(signal), signal

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """softmax(x_t) @ W_in."""
        return space.embed_mixture(torch.softmax(canvas, dim=-1))

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """Every position counts the same: (B, L)."""
        return torch.ones_like(t, dtype=torch.float32)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        """As given: any token of a canvas may be noise."""
        return log_p

    def corrupt_nucleus(self, drawn: Tensor, p: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Noise positions whose whole nucleus is at +K, or at t = 0 the drawn token alone: (B, L, V) float32.

        drawn: (B, L) int64. p: (B, L, V), above zero in the nucleus. t: (B, L).
        """
        raised = ((p > 0) & (t[..., None] > 0)).scatter_(-1, drawn[..., None], True)
        x, signal = self._ground(t, noise)
        return x.addcmul_(raised.to(x.dtype), 2 * signal)

    def shows(self, canvas: Tensor) -> Tensor:
        """Where one token has more than half of the softmax."""
        return torch.softmax(canvas, dim=-1).amax(-1) > 0.5

    def tokens(self, canvas: Tensor) -> Tensor:
        """The largest logit of each position."""
        return canvas.argmax(-1)
