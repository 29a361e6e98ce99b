"""A KV cache whose prefix can be read without being changed."""

from __future__ import annotations

from transformers.cache_utils import Cache, DynamicLayer


class _PrefixLayer(DynamicLayer):
    """A layer that starts from another one's keys and values; growing it makes new tensors and leaves those alone."""

    def __init__(self, prefix: _PrefixLayer | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if prefix is not None and prefix.keys is not None and prefix.values is not None:
            self.lazy_initialization(prefix.keys, prefix.values)
            self.keys, self.values = prefix.keys, prefix.values


class PrefixCache(Cache):
    """Keys and values of a prefix; a forward pass goes through a view, which grows while the cache stays as it was."""

    def __init__(self, layers: list[_PrefixLayer]) -> None:
        super().__init__(layers=[*layers])
        self._own = layers

    @classmethod
    def empty(cls, layers: int) -> PrefixCache:
        """The cache of an empty prefix, for a model of so many layers."""
        return cls([_PrefixLayer() for _ in range(layers)])

    def view(self) -> PrefixCache:
        """The same prefix, sharing the tensors and none of the state."""
        return PrefixCache([_PrefixLayer(layer) for layer in self._own])
