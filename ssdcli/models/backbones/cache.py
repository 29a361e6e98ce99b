"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from copy import copy

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PrefixCache(Cache):
    """Keys and values of a prefix; a forward pass goes through a view, which grows while the cache stays as it was.

    tail: the hidden states (B, n, H) and the positions (B, n) of the columns that were read last, for models that
    predict a token where the one before it stands.
    """

    tail: tuple[Tensor, Tensor] | None = None

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model of so many layers."""
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
        """The same prefix, sharing the tensors: a layer grows by making new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])
