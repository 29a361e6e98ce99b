"""A prefix cache as the classes of transformers take it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ssdcli.models.backbones.cache import CacheLayer, PrefixCache


class BorrowedLayer(DynamicLayer):
    """A layer of transformers' cache whose keys and values are those of a `CacheLayer`."""

    def __init__(self, own: CacheLayer) -> None:
        """For this layer, which grows when this one does."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = own

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns (B, heads, w, d); returns all."""
        return self._own.update(key_states, value_states)

    def get_seq_length(self) -> int:
        """The columns that hold a token."""
        return self._own.columns


def borrowed(cache: PrefixCache | None) -> Cache | None:
    """A cache of transformers through which a class reads a prefix cache, and makes it grow."""
    return None if cache is None else Cache([BorrowedLayer(layer) for layer in cache.layers])
