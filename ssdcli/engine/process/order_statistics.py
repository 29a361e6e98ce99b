"""The largest of many normal draws without drawing the others, the sum of the others, and random distinct ids."""

from __future__ import annotations

import torch
from torch import Tensor


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
