"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class CacheLayer:
    """One layer's keys and values, (B, heads, n, d); what is added makes new tensors."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """With these columns; without any, empty."""
        self.keys, self.values = keys, values

    @property
    def columns(self) -> int:
        """How many hold a token."""
        return 0 if self.keys is None else self.keys.shape[2]

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add columns (B, heads, w, d); returns all."""
        if self.keys is None or self.values is None:
            self.keys, self.values = keys.contiguous(), values.contiguous()
        else:
            self.keys, self.values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        return self.keys, self.values

    def whole(self) -> tuple[Tensor, Tensor]:
        """All columns of one that is not empty, with those that hold no token."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values


class SpacedLayer(CacheLayer):
    """A layer with spare columns at its end, into which forward passes write in place.

    filled: how many columns hold a token.
    """

    filled = 0

    @property
    def columns(self) -> int:
        """How many hold a token."""
        return self.filled

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write columns (B, heads, w, d) after the filled ones; returns all that are filled then."""
        all_keys, all_values = self.whole()
        end = self.filled + keys.shape[2]
        all_keys[:, :, self.filled : end] = keys
        all_values[:, :, self.filled : end] = values
        self.filled = end
        return all_keys[:, :, :end], all_values[:, :, :end]


class PrefixCache:
    """Keys and values of a prefix; a forward pass grows a view of it and leaves the cache unchanged.

    layers: a `CacheLayer` each, or what a class of transformers brings in its place.
    tail: the hidden states (B, n, H) and positions (B, n) of the last columns that were read, for models that predict
        the token of position i at i - 1.
    """

    tail: tuple[Tensor, Tensor] | None = None

    def __init__(self, layers: Sequence[Any]) -> None:
        """With these layers."""
        self.layers = list(layers)

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model with so many layers."""
        return cls([CacheLayer() for _ in range(layers)])

    @property
    def columns(self) -> int:
        """How many hold a token."""
        return int(self.layers[0].columns)

    @property
    def room(self) -> int:
        """How many there are, with spare ones."""
        return int(self.layers[0].keys.shape[2])

    def first(self, count: int) -> PrefixCache:
        """The first columns of a prefix that was read at once."""
        kept = PrefixCache([CacheLayer(keys[:, :, :count], values[:, :, :count]) for keys, values in self._tensors()])
        if self.tail is not None:
            hidden, positions = self.tail
            kept.tail = hidden[:, :count], positions[:, :count]
        return kept

    def _tensors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each layer's keys and values."""
        for layer in self.layers:
            yield layer.keys, layer.values

    def view(self) -> PrefixCache:
        """The same prefix, sharing its tensors; a layer that grows makes new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])

    def spaced(self, spare: int) -> PrefixCache:
        """A copy with spare columns at its end, for `after`."""
        room = (0, 0, 0, spare)
        return PrefixCache([SpacedLayer(pad(keys, room), pad(values, room)) for keys, values in self._tensors()])

    def for_rows(self, count: int) -> PrefixCache:
        """The cache of one row for so many rows, which share its tensors; one of as many rows is the same."""
        rows = (count, -1, -1, -1)
        return PrefixCache([CacheLayer(keys.expand(rows), values.expand(rows)) for keys, values in self._tensors()])

    def after(self, count: int) -> PrefixCache:
        """A view of a spaced cache through which a forward pass writes after the first columns, in place."""
        written = self.view()
        for layer in written.layers:
            assert isinstance(layer, SpacedLayer)
            layer.filled = count
        return written


class ReadsThroughCache:
    """How a body reads a prefix and a canvas after it, for backbones that say in `_run` how their body runs.

    shift: whether the token of position i is predicted at i - 1.
    """

    shift: bool

    def _run(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | None) -> Tensor:
        """Run the body, which grows the cache: (B, L, H) to (B, L, H)."""
        raise NotImplementedError

    def is_current(self, cache: PrefixCache) -> bool:
        """Whether a cache with a tail holds what would be kept of its tokens now."""
        return True

    def encode(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | None) -> Tensor:
        """Run the body after the cache, which is not changed: (B, L, H) to (B, L, H)."""
        return self._run(embedded, positions, mask, None if cache is None else cache.view())

    def extend(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache) -> PrefixCache:
        """The cache with (B, L, H) appended."""
        grown = cache.view()
        hidden = self._run(embedded, positions, mask, grown)
        grown.tail = (hidden, positions) if self.shift else None
        return grown
