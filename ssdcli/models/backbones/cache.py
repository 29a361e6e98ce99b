"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer


class SpacedLayer(DynamicLayer):
    """A layer with spare columns at its end, into which forward passes write in place.

    filled: how many columns hold a token.
    """

    filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, heads, w, d) after the filled columns; returns all columns that are filled then."""
        assert self.keys is not None
        assert self.values is not None
        end = self.filled + key_states.shape[2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        self.filled = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """The columns that hold a token."""
        return self.filled


class PrefixCache(Cache):
    """Keys and values of a prefix; a forward pass grows a view of it and leaves the cache unchanged.

    tail: the hidden states (B, n, H) and positions (B, n) of the last columns that were read, for models that predict
        the token of position i at i - 1.
    """

    tail: tuple[Tensor, Tensor] | None = None

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model with so many layers."""
        return cls([DynamicLayer() for _ in range(layers)])

    def first(self, count: int) -> PrefixCache:
        """The first columns of a prefix that was read at once."""
        kept = PrefixCache([_layer(keys[:, :, :count], values[:, :, :count]) for keys, values in self._tensors()])
        if self.tail is not None:
            hidden, positions = self.tail
            kept.tail = hidden[:, :count], positions[:, :count]
        return kept

    def _tensors(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each layer's keys and values."""
        for layer in self.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            yield layer.keys, layer.values

    def view(self) -> PrefixCache:
        """The same prefix, sharing its tensors; a layer that grows makes new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])

    def spaced(self, spare: int) -> PrefixCache:
        """A copy with spare columns at its end, for `after`."""
        room = (0, 0, 0, spare)
        return PrefixCache(
            [_layer(pad(keys, room), pad(values, room), SpacedLayer) for keys, values in self._tensors()]
        )

    def for_rows(self, count: int) -> PrefixCache:
        """The cache of one row for so many rows, which share its tensors; one of as many rows is the same."""
        rows = (count, -1, -1, -1)
        return PrefixCache([_layer(keys.expand(rows), values.expand(rows)) for keys, values in self._tensors()])

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

    def encode(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | None) -> Tensor:
        """Run the body after the cache, which is not changed: (B, L, H) to (B, L, H)."""
        return self._run(embedded, positions, mask, None if cache is None else cache.view())

    def extend(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache) -> PrefixCache:
        """The cache with (B, L, H) appended."""
        grown = cache.view()
        hidden = self._run(embedded, positions, mask, grown)
        grown.tail = (hidden, positions) if self.shift else None
        return grown


def _layer(keys: Tensor, values: Tensor, kind: type[DynamicLayer] = DynamicLayer) -> DynamicLayer:
    """A layer that holds these keys and values, (B, heads, n, d)."""
    layer = kind()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
