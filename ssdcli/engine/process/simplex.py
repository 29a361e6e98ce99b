"""The simplex process of SSD-LM (Han et al., ACL 2023): Gaussian noise on almost-one-hot logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.process.base import EmbeddingSpace, Sampling, Times
from ssdcli.engine.sampling.nucleus import Picker

_STEPS = 64  # of the models made here


@dataclass(frozen=True)
class Simplex:
    """A token w is the vector +K at w and -K elsewhere; noise of standard deviation K replaces it as t grows."""

    vocabulary: int
    K: float = 5.0
    s: float = 1e-4
    default_steps: int = _STEPS

    name = "simplex"
    timed = True
    mixes = True
    self_conditioned = True
    early_stop = None
    temperatures = (1.0, 1.0)
    samplings = ("nucleus", "multi-hot")

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Simplex:
        """Rebuild the process that a manifest describes."""
        return cls(vocabulary, constants["K"], constants["s"], int(constants.get("steps", _STEPS)))

    def constants(self) -> Mapping[str, float]:
        """K (the logits' magnitude), s (the schedule's offset), and steps if a block takes another number of them."""
        steps = {} if self.default_steps == _STEPS else {"steps": self.default_steps}
        return {"K": self.K, "s": self.s} | steps

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
        x, signal = self._ground(t, noise)
        return x.scatter_add_(-1, tokens[..., None], 2 * signal)

    def _ground(self, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Every token at -K and noised, (B, L, V), and K as it is at t, (B, L, 1)."""
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

    def sampled_by(self, sampling: Sampling) -> Simplex:
        """Return this process with the projection of that name."""
        kind = MultiHot if self._projection(sampling) == "multi-hot" else Simplex
        return kind(*astuple(self))

    def _projection(self, sampling: Sampling) -> str:
        """The projection asked for; ValueError where it is unknown, or has a number, or should remask."""
        name = sampling.name_among(self.samplings)
        sampling.forbid_remasking()
        if sampling.value is not None:
            raise ValueError(f"{name} sampling takes no number, and {sampling.value} is given")
        return name

    def step(self, canvas: Tensor, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Project the prediction onto one token a position, and noise that token to the lower level afresh."""
        tokens = picker.draw(log_p, noise)
        return self.corrupt(tokens, times[1][:, None].expand_as(tokens), noise)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions that show another token: every step draws all of them, and most as the step before."""
        return self.tokens(before) != self.tokens(after)

    def finished(self, canvas: Tensor) -> Tensor:
        """None: a canvas does not show whether it is clean."""
        return torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)

    def tokens(self, canvas: Tensor) -> Tensor:
        """The largest logit of each position."""
        return canvas.argmax(-1)


class MultiHot(Simplex):
    """The multi-hot projection of SSD-LM: every token of the nucleus is +K, so that none is chosen before the end."""

    def step(self, canvas: Tensor, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Raise the nucleus of each position and noise it to the lower level; at s = 0, one token drawn from it."""
        drawn = picker.draw(log_p, noise)
        lower = times[1][:, None].expand_as(drawn)
        nucleus = picker.probabilities(log_p) > 0
        raised = (nucleus & (lower[..., None] > 0)).scatter_(-1, drawn[..., None], True)
        x, signal = self._ground(lower, noise)
        return x.addcmul_(raised.to(x.dtype), 2 * signal)
