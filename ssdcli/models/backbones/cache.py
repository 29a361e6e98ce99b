"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from copy import copy

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


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
        kept = self.view()
        for layer in kept.layers:
            assert isinstance(layer, DynamicLayer)
            assert layer.keys is not None
            assert layer.values is not None
            layer.keys, layer.values = layer.keys[:, :, :count], layer.values[:, :, :count]
        if self.tail is not None:
            hidden, positions = self.tail
            kept.tail = hidden[:, :count], positions[:, :count]
        return kept

    def view(self) -> PrefixCache:
        """The same prefix, sharing its tensors; a layer that grows makes new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])
