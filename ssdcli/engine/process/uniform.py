"""The uniform process of DiffusionGemma: each token is replaced by a random one with probability t."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.nucleus import Picker, entropy
from ssdcli.engine.process.base import EmbeddingSpace, Sampling, Times
from ssdcli.engine.process.unmasking import EntropyBound, lowest, room


@dataclass(frozen=True)
class Uniform:
    """Linear schedule: at level t a token is any of the vocabulary with probability t, independently of the others.

    A canvas (B, L) int64 holds w where a token w is the text's or was drawn from a prediction, and ~w, below zero,
    where w is noise. Models see no difference.
    """

    vocabulary: int
    acceptance: EntropyBound = field(default_factory=EntropyBound)

    name = "uniform"
    timed = True
    mixes = False
    hears_itself = True
    default_steps = 48
    stops_early = True
    samplings = ("entropy-bound",)

    @classmethod
    def from_constants(cls, vocabulary: int, constants: Mapping[str, float]) -> Uniform:
        """Rebuild the process that a manifest describes."""
        return cls(vocabulary)

    def constants(self) -> Mapping[str, float]:
        """None."""
        return {}

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
        """Return this process with another entropy bound; the default is DiffusionGemma's."""
        sampling.name_among(self.samplings)
        sampling.forbid_remasking()
        return replace(self, acceptance=EntropyBound() if sampling.value is None else EntropyBound(sampling.value))

    def step(self, canvas: Tensor, log_p: Tensor, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Draw tokens, accept the surest as far as the entropy bound goes, and renew the noise everywhere else.

        Nothing is accepted for good: the next step draws again at every position. No more than a share s stays noise,
        as the model is told; by the bound alone, as in DiffusionGemma, most of a canvas may wait for the last step.
        """
        length = canvas.shape[1]
        drawn, fresh = picker.draw(log_p, noise), self.prior(length, noise)
        doubt = entropy(picker.tempered(log_p).float())
        due = lowest(doubt, torch.ones_like(canvas, dtype=torch.bool), length - room(length, times[1]))
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
