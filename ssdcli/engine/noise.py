"""Reproducible noise: every number is a function of a row's key, never of the batch it is drawn in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

# The constants of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) as signed
# 64-bit integers, the only ones that torch multiplies. _GOLDEN is odd and near 2^64 / phi: its multiples, one for each
# counter, visit all words before they repeat. The two others let each input bit flip half of the output bits.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_MASK = (1 << 64) - 1


class Noise(Protocol):
    """A source of independent draws, one stream a row."""

    def uniform(self, *shape: int) -> Tensor:
        """Draws in the open interval (0, 1): (B, *shape) float32."""

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws: (B, *shape) float32."""


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64, which torch only has as an arithmetic one."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The same 64 bits as a signed integer."""
    return ((word & _MASK) ^ (1 << 63)) - (1 << 63)


def _mix_(x: Tensor) -> Tensor:
    """The splitmix64 finaliser, in place: a bijection of int64 with avalanche."""
    for bits, factor in ((30, _MIX_1), (27, _MIX_2)):
        x.bitwise_xor_(_shift_right(x, bits)).mul_(factor)
    return x.bitwise_xor_(_shift_right(x, 31))


def fold(key: int, *words: int) -> int:
    """Derive a 64-bit key from a key and the words (block, step, ...) that name its use.

    Python's own integers do here what `_mix_` does on tensors.
    """
    for word in words:
        x = (key ^ (word * 0x9E3779B97F4A7C15)) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        key = (x ^ (x >> 31)) + 0x632BE59BD9B4E019 & _MASK
    return key


class CounterNoise:
    """Noise of a batch of rows, each keyed by its own integer.

    Counter-based: the n-th draw is a hash of (key, n), so that there is no state but a count, and a row draws the same
    numbers in any batch.
    """

    def __init__(self, keys: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> None:
        """Take one 64-bit key a row."""
        if not isinstance(keys, Tensor):
            keys = torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=device)
        self._keys = keys
        self._drawn = 0

    def on(self, device: torch.device | str) -> CounterNoise:
        """The same on a device, from its first draw on."""
        return CounterNoise(self._keys.to(device))

    def derive(self, *words: int) -> CounterNoise:
        """The rows' noise for one use, named by words (block, step, ...); nothing is read back from the device."""
        keys = self._keys
        for word in words:
            keys = _mix_(keys ^ _signed((word + 1) * 0x9E3779B97F4A7C15)) + 1
        return CounterNoise(keys)

    def at(self, rows: Tensor, words: Tensor) -> CounterNoise:
        """The noise of some rows (N,) for one use each, named by a word (N,) int64, as by `derive`."""
        return CounterNoise(_mix_(self._keys[rows] ^ ((words + 1) * _GOLDEN)) + 1)

    def exponential(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Exponential draws of mean 1, each a function of a row's key and an id alone; none is drawn twice.

        ids: (T,) int64. rows: the row of each id, (T,) int64, for one draw an id, (T,) float32; None for one of every
        id in every row, (B, T) float32. The least draw is 2**-32.
        """
        keys = _mix_(self._keys.clone())
        words = _mix_((keys[:, None] if rows is None else keys[rows]) + (ids + 1) * _GOLDEN)
        share = _shift_right(words, 33).float().add_(0.5).mul_(2**-31)  # 31 bits, of which float32 keeps 24
        return share.clamp_(max=1 - 2**-24).neg_().log1p_().neg_()

    def _words(self, count: int) -> Tensor:
        """Hash the next counters of every row, two words from each: (B, count) int32, uniform over all values.

        The key is hashed first: two keys a multiple of _GOLDEN apart would otherwise share one sequence, shifted.
        """
        pairs = (count + 1) // 2
        counters = torch.arange(self._drawn + 1, self._drawn + 1 + pairs, device=self._keys.device).mul_(_GOLDEN)
        self._drawn += pairs
        return _mix_(_mix_(self._keys.clone())[:, None] + counters).view(torch.int32)[:, :count]

    def uniform(self, *shape: int) -> Tensor:
        """Draws in the open interval (0, 1): (B, *shape) float32, on a grid of 2**-23 offset by half a cell.

        The offset keeps 0 and 1 out, whose logarithms and quantiles are infinite.
        """
        cells = self._words(math.prod(shape)) >> 9  # 23 bits, from -2**22 on
        return cells.float().mul_(2**-23).add_(0.5 + 2**-24).reshape(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, up to 6.7 in size: (B, *shape) float32 (Box and Muller, 1958, both of each pair).

        A point of the plane whose coordinates are standard normal has an angle that is uniform and a squared radius
        that is exponential with mean 2, hence -2 log u. The least u is 2**-32, which bounds the radius.
        """
        count = math.prod(shape)
        half = (count + 1) // 2
        words = self._words(2 * half)
        radius = words[:, :half].bitwise_and_(0x7FFFFFFF).float().add_(0.5).mul_(2**-31).log_().mul_(-2).sqrt_()
        angle = words[:, half:].float().mul_(math.pi * 2**-31)
        pair = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], dim=1)
        return pair[:, :count].reshape(-1, *shape)


class GeneratorNoise:
    """Noise of a batch of rows from one torch generator a row: faster for the large draws of a training step."""

    def __init__(self, keys: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Take one 64-bit key a row."""
        self._generators = [torch.Generator(device).manual_seed(key & (_MASK >> 1)) for key in keys]

    def uniform(self, *shape: int) -> Tensor:
        """Draws in the open interval (0, 1): (B, *shape) float32."""
        draws = torch.stack([torch.rand(shape, generator=g, device=g.device) for g in self._generators])
        return draws.clamp_(2**-25, 1 - 2**-24)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws: (B, *shape) float32."""
        first = self._generators[0]
        draws = torch.empty((len(self._generators), *shape), device=first.device)
        for row, generator in zip(draws, self._generators, strict=True):
            row.normal_(generator=generator)
        return draws
