"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class SpacedLayer(DynamicLayer):
    """A layer with free columns after its prefix, into which a forward pass writes.

    columns: (B, w) int64, where the next pass writes.
    """

    columns: Tensor

    @classmethod
    def after(cls, layer: DynamicLayer, free: int) -> Self:
        """A copy of a layer, followed by so many free columns, which are zero."""
        assert layer.keys is not None
        assert layer.values is not None
        made = cls()
        made.lazy_initialization(layer.keys, layer.values)
        made.keys, made.values = (torch.nn.functional.pad(kept, (0, 0, 0, free)) for kept in (layer.keys, layer.values))
        return made

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values (B, heads, w, d) in place; returns all columns, the free ones too."""
        assert self.keys is not None
        assert self.values is not None
        places = self.columns[:, None, :, None]
        self.keys.scatter_(2, places.expand_as(key_states), key_states)
        self.values.scatter_(2, places.expand_as(value_states), value_states)
        return self.keys, self.values


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

    @classmethod
    def joined(cls, caches: Sequence[PrefixCache]) -> PrefixCache:
        """The rows of several prefixes of one width, in one cache without a tail."""
        return cls(
            [
                _layer(torch.cat([part.keys for part in parts]), torch.cat([part.values for part in parts]))
                for parts in zip(*(cache.layers for cache in caches), strict=True)
            ]
        )

    def first(self, count: int) -> PrefixCache:
        """The first columns of a prefix that was read at once."""
        layers = []
        for whole in self.layers:
            assert isinstance(whole, DynamicLayer)
            assert whole.keys is not None
            assert whole.values is not None
            layers.append(_layer(whole.keys[:, :, :count], whole.values[:, :, :count]))
        kept = PrefixCache(layers)
        if self.tail is not None:
            hidden, positions = self.tail
            kept.tail = hidden[:, :count], positions[:, :count]
        return kept

    def view(self) -> PrefixCache:
        """The same prefix, sharing its tensors; a layer that grows makes new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])

    def spaced(self, free: int) -> PrefixCache:
        """A copy with free columns after the prefix, for `at`."""
        layers = [layer for layer in self.layers if isinstance(layer, DynamicLayer)]
        return PrefixCache([SpacedLayer.after(layer, free) for layer in layers])

    def at(self, columns: Tensor) -> PrefixCache:
        """A view of a spaced cache through which a forward pass writes into these columns (B, w), in place."""
        written = self.view()
        for layer in written.layers:
            assert isinstance(layer, SpacedLayer)
            layer.columns = columns
        return written


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A layer that holds these keys and values, (B, heads, n, d)."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
