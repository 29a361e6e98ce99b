"""The simplex process on large vocabularies: the same noise, drawn through its order statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.process.process import EmbeddingSpace
from ssdcli.engine.process.simplex import Simplex


def largest_normals(uniform: Tensor, count: int) -> Tensor:
    """The m largest of `count` independent standard normals, in falling order: (..., m) float64.

    uniform: (..., m) in (0, 1). The largest of n uniforms is below x with probability x^n, hence drawn as u^(1/n);
    given it, the others are n - 1 uniforms below it, so that the next one is a factor u^(1/(n - 1)) smaller, and so on
    (Devroye, "Non-uniform random variate generation", 1986, V.3). The inverse normal distribution function keeps their
    order. Logarithms, since the largest of many uniforms differ from 1 by less than a float64 can tell.
    """
    left = torch.arange(count, count - uniform.shape[-1], -1, device=uniform.device)
    log_ranks = (uniform.double().log() / left).cumsum(-1)
    tails: Tensor = torch.special.ndtri(-torch.expm1(log_ranks))  # of the upper tail, where floats are dense
    return -tails


def lognormal_below(sigma: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Of e^(sigma z), z a standard normal below a bound: the log of the mean, and the variance over the squared mean.

    sigma, bound: float64 of shapes that broadcast. Completing the square in the exponent moves the mean of z to sigma:
    E[e^(sigma z) | z < b] = e^(sigma^2 / 2) Phi(b - sigma) / Phi(b). The second moment is the same at 2 sigma.
    """
    below = torch.special.log_ndtr(bound)
    log_mean = sigma**2 / 2 + torch.special.log_ndtr(bound - sigma) - below
    log_square = 2 * sigma**2 + torch.special.log_ndtr(bound - 2 * sigma) - below
    return log_mean, torch.expm1(log_square - 2 * log_mean).clamp(min=0)


def distinct(uniform: Tensor, count: int) -> Tensor:
    """Draw k distinct numbers below `count`, each of which may be any: uniform (..., k + 1) to (..., k) int64.

    Rejecting repetitions would take a random number of draws. Instead, each number has its own remainder modulo k and a
    quotient of its own choice, and all are rotated by one more draw. They are not independent, but whatever changes
    slowly with the number, such as a token's frequency, is as good as independent.
    """
    k = uniform.shape[-1] - 1
    quotients = (uniform[..., :k] * (count // k)).long()
    start = (uniform[..., k:] * count).long()
    return (torch.arange(k, device=uniform.device) + k * quotients + start) % count


def skipping(numbers: Tensor, taken: Tensor) -> Tensor:
    """Renumber so that the taken numbers are left out and order stays: (..., n), taken (..., k) distinct.

    The taken number t_i, the i-th smallest, is met once t_i - i others were counted; each that was met adds one.
    """
    gaps = taken.sort(-1).values - torch.arange(taken.shape[-1], device=taken.device)
    return numbers + torch.searchsorted(gaps, numbers, right=True)


_LARGE = 1 << 15  # the vocabulary from which on noise is sparse
_HOT = 16  # the most tokens of a multi-hot projection


def simplex(vocabulary: int, constants: Mapping[str, float]) -> Simplex:
    """The simplex process that a manifest describes, with dense noise below 32,768 tokens and sparse from there on."""
    return (Simplex if vocabulary < _LARGE else SparseSimplex).from_constants(vocabulary, constants)


@dataclass(frozen=True)
class SparseSimplex(Simplex):
    """The simplex process where a canvas holds, in place of V logits, what their softmax does to a mean of embeddings.

    A model reads a noised position as softmax(x_t) @ W, to which most of V weights contribute next to nothing. So a
    canvas (B, L, 2, S) float32 is S token ids (exact below 2^24) and their weights; what the weights leave of 1 is
    spread evenly over the vocabulary. It holds three kinds of tokens:

    - those of the text, with their own noise;
    - the `top` largest of all other noises, drawn exactly by their order statistics and given to random tokens;
    - `scattered` random tokens that stand for all the rest. The rest is spread evenly at its mean, given that it is
      below the smallest of the top; these tokens, of equal weight and random sign, restore its variance.

    So the sum of the rest and its mixture of embeddings have the right means and covariances, whatever the table, and
    models with different tables see the same canvas.

    top: how many of the largest noises are kept.
    scattered: how many tokens stand for the rest.
    """

    top: int = 32
    scattered: int = 128

    mixes = False

    def __post_init__(self) -> None:
        if self.vocabulary < _HOT + self.top + self.scattered:
            raise ValueError(f"a vocabulary of {self.vocabulary} tokens is too small for sparse noise")

    def prior(self, length: int, noise: Noise) -> Tensor:
        """Noise without a signal: (B, L, 2, S)."""
        anything = torch.zeros_like(noise.uniform(length), dtype=torch.int64)
        return self.corrupt(anything, torch.ones(anything.shape, device=anything.device), noise)

    def corrupt(self, tokens: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Draw the largest weights of softmax(x_t) and the sum of the others: (B, L, 2, S) float32."""
        return self._noised(tokens[..., None], torch.ones_like(tokens[..., None]), t, noise)

    def _noised(self, named: Tensor, raised: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Noise the tokens named (B, L, k), of which the raised ones are at +K and all others of the vocabulary at -K.

        The shift of all logits by -K sqrt(abar) drops out of the softmax. Weights are in units of the mean weight of a
        token of the rest, that is neither named nor at the top, until they are divided by their sum.
        """
        length, k = named.shape[1:]
        abar = self.abar(t.double())[..., None]
        sigma = (1 - abar).sqrt() * self.K
        highest = largest_normals(noise.uniform(length, self.top), self.vocabulary - k)
        log_mean, variance = lognormal_below(sigma, highest[..., -1:])
        own = (2 * self.K * abar.sqrt() * raised + sigma * noise.normal(length, k) - log_mean).exp()
        largest = (sigma * highest - log_mean).exp()
        left = self.vocabulary - k - self.top
        # The rest varies by left * variance; so do the scattered tokens' weights, which sum to 0 on average:
        # scattered * size^2 = left * variance.
        size = (variance * (left / self.scattered)).sqrt()
        swing = torch.where(noise.uniform(length, self.scattered) < 0.5, -size, size)
        total = own.sum(-1) + largest.sum(-1) + (left + swing.sum(-1)).clamp(min=0)
        # What is spread evenly gives each of the V tokens 1 / total, so that only what exceeds this unit is written:
        # 1 - (sum of these weights) = V / total.
        weights = torch.cat([own - 1, largest - 1, swing], dim=-1) / total[..., None]
        others = distinct(noise.uniform(length, self.top + self.scattered + 1), self.vocabulary - k)
        ids = torch.cat([named, skipping(others, named)], dim=-1)
        return torch.stack([ids.float(), weights.float()], dim=2)

    def embed(self, canvas: Tensor, space: EmbeddingSpace) -> Tensor:
        """The weighted sum of the tokens' embeddings, and the mean embedding for the rest."""
        ids, weights = canvas.unbind(2)
        return space.embed_sparse(ids.long(), weights)

    def corrupt_nucleus(self, drawn: Tensor, p: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """Noise positions whose nucleus, the 16 likeliest at most, is at +K, or at t = 0 the drawn token alone.

        drawn: (B, L) int64, which counts as the likeliest. p: (B, L, V), above zero in the nucleus. t: (B, L). Returns
        (B, L, 2, S) float32.
        """
        likeliest = p.scatter(-1, drawn[..., None], math.inf).topk(_HOT)
        raised = (likeliest.values > 0) & (t[..., None] > 0) | likeliest.values.isinf()
        return self._noised(likeliest.indices, raised, t, noise)

    def shows(self, canvas: Tensor) -> Tensor:
        """Where one token has more than half of the softmax."""
        return canvas[:, :, 1].amax(-1) > 0.5

    def tokens(self, canvas: Tensor) -> Tensor:
        """The token of the largest weight at each position."""
        ids, weights = canvas.unbind(2)
        return ids.gather(-1, weights.argmax(-1, keepdim=True)).squeeze(-1).long()
