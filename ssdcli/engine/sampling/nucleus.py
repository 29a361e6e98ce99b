"""Vocabulary-sized operations: nucleus sampling without a sort, and the entropy of a prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise

_DRAW = 1 << 33  # the word that names the stream of a draw
_BLOCK = 128  # a draw looks at the sums of V / 128 blocks of tokens, then at the tokens of one block
_SLIP = 2.0**-24  # the probability, a position, that a draw from the nucleus ends with the likeliest token instead


@dataclass(frozen=True)
class Picker:
    """How a token is drawn from log p: temperature, then the nucleus of mass top-p (Holtzman et al., 2020), then min-p.

    A token is in the nucleus if the strictly likelier ones hold a mass below top-p: equally likely ones stay or go
    together, and the likeliest always stays. So top-p -> 0 is greedy, and the order of ids plays no part.

    temperature: divides the logits; 0 takes the likeliest token.
    top_p: in (0, 1].
    min_p: the least probability of a token, as a share of the likeliest's, in [0, 1] (Nguyen et al., 2024).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0

    def tempered(self, log_p: Tensor) -> Tensor:
        """Log p at this temperature, renormalised: (..., V); as given at 0."""
        return log_p if self.temperature in {0, 1} else torch.log_softmax(log_p.float() / self.temperature, dim=-1)

    def probabilities(self, log_p: Tensor) -> Tensor:
        """The distribution that tokens are drawn from: (..., V) float32, zero outside the nucleus, unnormalised."""
        if self.temperature == 0:
            return torch.zeros_like(log_p, dtype=torch.float32).scatter_(-1, log_p.argmax(-1, keepdim=True), 1.0)
        p = self.weights(log_p)
        return p if self.top_p >= 1 else keep_nucleus(p, self.top_p)

    def draw(self, log_p: Tensor, noise: CounterNoise, wanted: Tensor | None = None) -> Tensor:
        """Draw one token a position: log_p (B, L, V), one noise stream a row; returns (B, L) int64.

        A draw has a noise stream of its own, so that whatever else is drawn is the same at every temperature and top-p.

        wanted: the positions, (B, L) bool, whose tokens will be used; elsewhere any token may be returned.
        """
        rows, length, vocabulary = log_p.shape
        draws = noise.derive(_DRAW).uniform(most_rounds(self.top_p, vocabulary), 2, length)
        uniforms, log_p = draws.permute(1, 2, 0, 3).flatten(2), log_p.flatten(0, 1)
        if wanted is None or not readable(log_p):
            return self._drawn(log_p, uniforms).view(rows, length)
        tokens = torch.zeros(rows * length, dtype=torch.int64)
        here = wanted.flatten().nonzero()[:, 0]
        if len(here):
            tokens[here] = self._drawn(log_p[here], uniforms[:, :, here])
        return tokens.view(rows, length)

    def _drawn(self, log_p: Tensor, uniforms: Tensor) -> Tensor:
        """Draw a token by each log p: (N, V), uniforms (R, 2, N); returns (N,) int64."""
        if self.temperature == 0:
            return log_p.argmax(-1)
        blocks = _blocks(self.weights(log_p))
        return _draw(blocks, uniforms[0]) if self.top_p >= 1 else _draw_from_nucleus(blocks, self.top_p, uniforms)

    def weights(self, log_p: Tensor) -> Tensor:
        """The distribution at this temperature, (..., V) float32, zero where it is below min-p: unnormalised.

        Tokens below min-p are less likely than all others, so that the nucleus of the others is what it was: that of
        top-p, and then min-p.
        """
        p = torch.softmax(log_p.float() if self.temperature == 1 else log_p.float() / self.temperature, dim=-1)
        if self.min_p == 0:
            return p
        least = p.amax(-1, keepdim=True) * self.min_p
        return torch.ge(p, least, out=torch.empty_like(p)).mul_(p)  # float32: see keep_nucleus


def keep_nucleus(p: Tensor, top_p: float) -> Tensor:
    """Zero every token but the likeliest whose strictly likelier ones hold a mass of `top_p` or more.

    p: (..., V) float32, summing to one at most.

    The nucleus is { w : p(w) >= p* } with p* the smallest probability above which the mass is less than top_p. Positive
    floats are ordered as their bit patterns are, so that p* is found exactly by bisecting the patterns: 31 halvings,
    each three cheap passes over V, where a sort of V would take longer.
    """
    high = p.amax(-1, keepdim=True).view(torch.int32)  # holds: nothing is above the likeliest
    low = torch.zeros_like(high)  # fails: the mass above it is too much (or it is zero)
    kept = torch.empty_like(p)  # comparisons are written as float32: torch is several times slower with bool on CPUs
    for _ in range(31):
        middle = low + (high - low) // 2
        mass = total(torch.gt(p, middle.view(torch.float32), out=kept).mul_(p))
        holds = (mass < top_p)[..., None]
        high, low = torch.where(holds, middle, high), torch.where(holds, low, middle)
    return torch.ge(p, high.view(torch.float32), out=kept).mul_(p)


def predicted(log_p: Tensor) -> Tensor:
    """Where there is a prediction: log p (..., V), which is NaN elsewhere, to (...) bool."""
    return ~log_p[..., 0].isnan()


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats: log_p (..., V) normalised, -inf for what cannot be; returns (...)."""
    p = torch.softmax(log_p, dim=-1)  # what exp would give, in less time on CPUs
    return -total(p.mul_(log_p.clamp(min=-1e4)))  # where p is zero, log p only has to be finite


def total(x: Tensor) -> Tensor:
    """Sum over the last dimension, (..., V) to (...), to the same bits for a row alone as for one among others.

    torch divides the plain sum of a single long row among threads, but not those of several rows. Summing blocks first
    leaves no row long enough for that.
    """
    whole = x.shape[-1] // _BLOCK
    body, rest = x[..., : whole * _BLOCK], x[..., whole * _BLOCK :]
    return body.view(*x.shape[:-1], whole, _BLOCK).sum(-1).sum(-1) + rest.sum(-1)


def _blocks(weights: Tensor) -> Tensor:
    """A copy cut into blocks of tokens, the last one filled up with zeros: (N, V) to (N, n, 128)."""
    return torch.nn.functional.pad(weights, (0, -weights.shape[-1] % _BLOCK)).view(len(weights), -1, _BLOCK)


def _draw(blocks: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a token by weight, first its block and then itself: blocks (N, n, 128), uniforms (2, N); returns (N,).

    p(w) = p(block) p(w | block). With a uniform for each factor, tokens far less likely than the steps of a float32
    uniform, 2**-23, keep their share; and only one of the blocks is looked into.
    """
    block = _invert(blocks.sum(-1), uniforms[0])
    rows = torch.arange(len(blocks), device=blocks.device)
    return block * _BLOCK + _invert(blocks[rows, block], uniforms[1])


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw an index by inverting the cumulative sum: weights (N, n) non-negative, uniform (N,); returns (N,) int64."""
    # A sum taken in parallel, as on a GPU, may by rounding rise where there is no weight.
    cumulative = torch.where(weights > 0, weights.cumsum(-1), 0)
    return (cumulative > uniform[:, None] * cumulative.amax(-1, keepdim=True)).int().argmax(-1)


def most_rounds(top_p: float, vocabulary: int) -> int:
    """How many draws leave a position without a token of the nucleus with a probability of at most 2**-24.

    A round draws by inverting the cumulative sum of the tokens in falling order, as it were: what is strictly likelier
    than the rejected token, and is left for the next round, is at most a uniform share of the mass drawn from. So the
    logarithm of what is left falls by an exponential variate or more a round, and it never falls below the logarithm of
    the nucleus's own mass N. The number of unit exponentials that fit into -log N is Poisson, hence
    P(R rejections) <= P(Poisson(-log N) >= R), where N is at least top_p, and at least 1 / V.
    """
    rate = -math.log(max(top_p, 1 / vocabulary))
    rounds, share, left = 0, math.exp(-rate), 1.0
    while left > _SLIP:
        left -= share
        rounds += 1
        share *= rate / rounds
    return rounds


def _draw_from_nucleus(blocks: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    """Draw a token of each nucleus by rejection: p in blocks (N, n, 128), uniforms (R, 2, N); returns (N,) int64.

    A token drawn from all tokens is in the nucleus if the strictly likelier ones hold less than `top_p`; given that, it
    has the nucleus's own distribution. If it is not in the nucleus, neither is any token that is no likelier: all of
    these lose their weight, in place, and the next round draws among the others. A position that the last round leaves
    open takes the likeliest token. Where p is NaN, nothing is drawn: the result is any token.
    """
    tokens = torch.zeros_like(uniforms[0, 0], dtype=torch.int64)
    rows = torch.arange(len(tokens), device=tokens.device)
    bound = torch.full_like(uniforms[0, 0], max(top_p, 1e-30))  # above zero: the likeliest token is always inside
    bound = bound.masked_fill(blocks[:, 0, 0].isnan(), 0)
    for uniform in uniforms:
        drawn = _draw(blocks, uniform[:, rows])
        pivot = blocks.flatten(1).gather(1, drawn[:, None])[..., None]
        blocks.mul_(torch.gt(blocks, pivot, out=torch.empty_like(blocks)))  # float32: see keep_nucleus
        inside = blocks.sum(-1).sum(-1) < bound
        tokens[rows] = torch.where(inside, drawn, tokens[rows])
        bound = bound.masked_fill(inside, 0)  # a row takes one token only
        if readable(blocks):  # on a GPU all rounds are run, since asking would make the host wait
            left = bound > 0
            rows, blocks, bound = rows[left], blocks[left], bound[left]
            if not len(rows):
                break
    tokens[rows] = torch.where(bound > 0, blocks.flatten(1).argmax(-1), tokens[rows])
    return tokens


def readable(x: Tensor) -> bool:
    """Whether the host can read a tensor without waiting for a device."""
    return x.is_cpu


def sent(values: Tensor, device: torch.device) -> Tensor:
    """What the host knows as a tensor of a device, for which nobody waits."""
    return values.to(device, non_blocking=True)
