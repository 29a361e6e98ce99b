"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from copy import copy

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PrefixCache(Cache):
    """Keys and values of a prefix; a forward pass goes through a view, which grows while the cache stays as it was.

    last: the hidden state (B, 1, H) of the prefix's last column, where a model predicts the token after it there.
    """

    last: Tensor | None = None

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model of so many layers."""
        return cls([DynamicLayer() for _ in range(layers)])

    def view(self) -> PrefixCache:
        """The same prefix, sharing the tensors: a layer grows by making new ones."""
        return PrefixCache([copy(layer) for layer in self.layers])
