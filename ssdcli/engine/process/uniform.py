"""The uniform process of DiffusionGemma: each token is replaced by a random one with probability t."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.process.base import EmbeddingSpace, Sampling, Times
from ssdcli.engine.sampling.nucleus import Picker, entropy
from ssdcli.engine.sampling.stopping import EarlyStop
from ssdcli.engine.sampling.unmasking import EntropyBound, lowest, room


@dataclass(frozen=True)
class Uniform:
    """Linear schedule: at level t a token is any of the vocabulary with probability t, independently of the others.

    A canvas (B, L) int64 holds w where a token w is the text's or was drawn from a prediction, and ~w, below zero,
    where w is noise. Models see no difference.

    timed: whether models are told the level. Where they are, a canvas keeps to it. Where they are not, it is denoised
    by DiffusionGemma's own rules: the bound alone decides how fast, the temperature falls, and the end is greedy.
    """

    vocabulary: int
    acceptance: EntropyBound = field(default_factory=EntropyBound)
    timed: bool = True
    temperatures: tuple[float, float] = (1.0, 1.0)
    early_stop: EarlyStop = field(default_factory=EarlyStop)
    default_steps: int = 48

    name = "uniform"
    mixes = False
    self_conditioned = True
    samplings = ("entropy-bound",)

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Uniform:
        """Rebuild the process that a manifest describes."""
        if constants.get("timed", 1):
            return cls(vocabulary)
        return cls(
            vocabulary,
            acceptance=EntropyBound(constants["bound"]),
            timed=False,
            temperatures=(constants["hot"], constants["cold"]),
            early_stop=EarlyStop(constants["sure"], int(constants["stable"])),
            default_steps=int(constants["steps"]),
        )

    def constants(self) -> Mapping[str, float]:
        """None where models are told the level; else what the sampler of their checkpoint goes by.

        hot, cold: its temperatures at t = 1 and t = 0. bound: on the entropy of what is accepted. sure, stable: the
        entropy and the steps of its early stop. steps: how many it takes.
        """
        if self.timed:
            return {}
        hot, cold = self.temperatures
        return {
            "timed": 0,
            "hot": hot,
            "cold": cold,
            "bound": self.acceptance.bound,
            "sure": self.early_stop.entropy,
            "stable": self.early_stop.steps,
            "steps": self.default_steps,
        }

    def prior(self, length: int, noise: Noise) -> Tensor:
        """Random tokens: (B, L) int64, all of them noise."""
        # In float64, whose products with a whole number below 2^29 are exact: the result is below the vocabulary.
        return ~(noise.uniform(length).double() * self.vocabulary).long()

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Replace each token with probability t: (B, L) int64."""
        replaced = noise.uniform(tokens.shape[1]) < t
        return torch.where(replaced, self.prior(tokens.shape[1], noise), tokens)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """The embeddings of the tokens, be they noise or not."""
        return space.embed(self.tokens(canvas))

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """Every position counts the same, replaced or not: (B, L)."""
        return torch.ones_like(t, dtype=torch.float32)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        """As given: any token of a canvas may be noise."""
        return log_p

    def sampled_by(self, sampling: Sampling) -> Uniform:
        """Return this process with another entropy bound; the default is its own."""
        sampling.name_among(self.samplings)
        sampling.forbid_remasking()
        return self if sampling.value is None else replace(self, acceptance=EntropyBound(sampling.value))

    def step(self, canvas: Tensor, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Draw tokens, accept the surest as far as the entropy bound goes, and renew the noise everywhere else.

        Nothing is accepted for good: the next step draws again at every position. No more than a share s stays noise,
        if the model is told so; by the bound alone most of a canvas may wait for the last step, which then takes the
        likeliest tokens.
        """
        length, s = canvas.shape[1], times[1]
        drawn, fresh = picker.draw(log_p, noise), self.prior(length, noise)
        if not self.timed:
            drawn = torch.where(s[:, None] == 0, log_p.argmax(-1), drawn)
        doubt = entropy(picker.tempered(log_p).float())
        noisy = room(length, s if self.timed else s.ceil())
        due = lowest(doubt, torch.ones_like(canvas, dtype=torch.bool), length - noisy)
        return torch.where(self.acceptance.within(doubt) | due, drawn, fresh)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions where a token was accepted that the canvas did not hold before."""
        return (after >= 0) & (after != before)

    def finished(self, canvas: Tensor) -> Tensor:
        """None: every step draws anew."""
        return torch.zeros(canvas.shape[0], dtype=torch.bool, device=canvas.device)

    def tokens(self, canvas: Tensor) -> Tensor:
        """The tokens, be they noise or not."""
        return torch.where(canvas < 0, ~canvas, canvas)
