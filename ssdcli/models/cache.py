"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, cat
from transformers.cache_utils import Cache, DynamicLayer


class _PrefixLayer(DynamicLayer):
    """A layer that shows the keys and values of prefix and canvas, and keeps the canvas only when told to."""

    def __init__(self, keeps: bool, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keeps = keeps
        if keys is not None and values is not None:
            self.lazy_initialization(keys, values)
            self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            keys, values = key_states, value_states
            self.lazy_initialization(keys, values)
        else:
            keys = cat([self.keys, key_states], dim=-2)
            values = cat([self.values, value_states], dim=-2)
        if self.keeps:
            self.keys, self.values = keys, values
        return keys, values


class PrefixCache(Cache):
    """Keys and values of a prefix. A view for reading and one for growing share the tensors, never the state."""

    def __init__(self, layers: list[_PrefixLayer]) -> None:
        super().__init__(layers=[*layers])
        self._own = layers

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model of so many layers."""
        return cls([_PrefixLayer(keeps=False) for _ in range(layers)])

    def view(self, keeps: bool) -> PrefixCache:
        """The same prefix; with `keeps` a forward pass through the view is appended to the view, not to this."""
        return PrefixCache([_PrefixLayer(keeps, layer.keys, layer.values) for layer in self._own])
