"""The uniform process of DiffusionGemma: each token is replaced by a random one with probability t."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.noise import Noise
from ssdcli.engine.process.process import EmbeddingSpace

_LOWEST = 1e-6  # of the levels: at the ends the NELBO's terms are quotients of zeros


def uniform(vocabulary: int, constants: Mapping[str, float]) -> Uniform:
    """The process that a manifest describes."""
    if constants.get("timed", 1):
        return Uniform(vocabulary)
    return Uniform(vocabulary, timed=False, published=catalogue.process(Uniform.name).for_samplers(constants))


def uniform_nelbo(log_p: Tensor, tokens: Tensor, shown: Tensor, levels: Tensor) -> Tensor:
    """The continuous-time NELBO of the linear schedule, alpha = 1 - t, at N positions: (N,) nats.

    log_p: (N, V).
    tokens: (N,), the clean ones.
    shown: (N,), those of the canvas.
    levels: (N,).

    A token i that is shown turns into j at a rate that is r_j times that of noise where the clean one is known to be x,
    r_j = q_j / q_i with q_j = 1 + k [j = x] and k = V alpha / t, and m_j = sum_x p_x r_j by a prediction p. The bound
    is the divergence of one jump process from the other, sum_{j != i} (m_j - r_j + r_j log(r_j / m_j)) / (V alpha).
    The sums over j that do not depend on p have closed forms, one where the clean token is shown and one elsewhere.
    Campbell et al., "A continuous time framework for discrete denoising models" (2022), with the prediction of the
    clean token of D3PM (Austin et al., 2021), for which the true posterior, which cross-entropy learns, is the best.
    """
    p = log_p.double().exp()
    t = levels.double().clamp(_LOWEST, 1 - _LOWEST)
    others, kept = p.shape[-1] - 1, shown == tokens
    k = (others + 1) * (1 - t) / t
    p_shown, p_clean = (p.gather(-1, token[:, None]).squeeze(-1) for token in (shown, tokens))
    least = (1 - p_shown) + p_shown / (1 + k)  # m_j of a token that is not predicted at all
    log_m = (least[:, None] + k[:, None] * p).log().sum(-1) - (least + k * p_shown).log()
    predicted = others * least + k * (1 - p_shown)
    where_kept = ((1 + k).log() * others + others + log_m) / (1 + k)
    where_lost = others + k - (1 + k) * k.log1p() + log_m + k * (least + k * p_clean).log()
    return ((predicted - torch.where(kept, where_kept, where_lost)) / ((others + 1) * (1 - t))).float()


@dataclass(frozen=True)
class Uniform:
    """Linear schedule: at level t a token is any of the vocabulary with probability t, independently of the others.

    A canvas (B, L) int64 holds w where a token w is the text's or was drawn from a prediction, and ~w, below zero,
    where w is noise. Models see no difference.

    vocabulary: V.
    timed: whether the model is told the level.
    published: constants for samplers, kept with those of the process.
    """

    vocabulary: int
    timed: bool = True
    published: Mapping[str, float] = field(default_factory=dict, hash=False)

    name = "uniform"
    mixes = False
    self_conditioned = True
    hides = False
    bounded = True
    nelbo = staticmethod(uniform_nelbo)

    def constants(self) -> Mapping[str, float]:
        """None where models are told the level; else that they are not, and how their checkpoint was sampled."""
        return {} if self.timed else {"timed": 0, **self.published}

    def prior(self, length: int, noise: Noise) -> Tensor:
        """Random tokens: (B, L) int64, all of them noise."""
        # In float64, whose products with a whole number below 2^29 are exact: the result is below the vocabulary.
        return ~(noise.uniform(length).double() * self.vocabulary).long()

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Replace each token with probability t: (B, L) int64."""
        replaced = noise.uniform(tokens.shape[1]) < t
        return torch.where(replaced, self.prior(tokens.shape[1], noise), tokens)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """The embeddings of the tokens, noise or not."""
        return space.embed(self.tokens(canvas))

    def loss_weights(self, canvas: Tensor, t: Tensor) -> Tensor:
        """Every position counts the same, replaced or not: (B, L)."""
        return torch.ones_like(t, dtype=torch.float32)

    def carry_over(self, canvas: Tensor, log_p: Tensor) -> Tensor:
        """As given: any token of a canvas may be noise."""
        return log_p

    def shows(self, canvas: Tensor) -> Tensor:
        """Where the token is not known to be noise."""
        return canvas >= 0

    def tokens(self, canvas: Tensor) -> Tensor:
        """The tokens, noise or not."""
        return torch.where(canvas < 0, ~canvas, canvas)
