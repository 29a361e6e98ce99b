"""What a pulled core has, whatever runs its layers: input embeddings, a body, and scores of the clean tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssdcli.engine.flops import Sizes
from ssdcli.models.active_vocabulary import weighted_sums
from ssdcli.models.backbones.cache import PrefixCache, ReadsThroughCache
from ssdcli.models.core_spec import CoreSpec


class CoreBackbone(ReadsThroughCache):
    """A core behind the engine's Backbone.

    sizes: the multiply-adds of its parts.
    layer_count: how many layers the body has.
    """

    self_conditioned = False
    forgets = False
    sizes: Sizes
    layer_count: int

    def __init__(self, spec: CoreSpec, block_size: int | None, device: torch.device) -> None:
        """Say how it is run; `block_size` replaces the one that a core with full attention proposes."""
        self.spec = spec
        self.block_size = spec.block_size if block_size is None else block_size
        self.context = spec.context
        self.shift = spec.shift
        self.reading_block = 1 if spec.attention in ("causal", "autoregressive") else self.block_size
        self._suppressed = torch.tensor(spec.suppressed, dtype=torch.int64, device=device)

    @property
    def device(self) -> torch.device:
        """The device of the input embeddings, where canvases and prefixes are too."""
        return self._table.device

    @property
    def _table(self) -> Tensor:
        """The input embeddings of clean tokens: (V, H)."""
        raise NotImplementedError

    @property
    def _mixed(self) -> Tensor:
        """The embeddings whose mixtures a canvas is: (V, H)."""
        return self._table

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: (B, L) int64 to (B, L, H)."""
        raise NotImplementedError

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings: p (B, L, V) to (B, L, H)."""
        return p.to(self._mixed.dtype) @ self._mixed

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings; the rest of the weight, up to 1, is spread over all: (B, L, S) to (B, L, H)."""
        table = self._mixed
        return weighted_sums(table, ids, weights, table.new_ones(len(table)))

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Nothing is added: a masked model reads neither the noise level nor a previous prediction."""
        return embedded

    def new_cache(self) -> PrefixCache:
        """An empty KV cache."""
        return PrefixCache.empty(self.layer_count)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the clean tokens: (B, L, V) float32, -inf for ids that are never text."""
        return self._scores(hidden).to(self.device, torch.float32).index_fill(-1, self._suppressed, -math.inf)

    def _scores(self, hidden: Tensor) -> Tensor:
        """The head's scores of the body's states: (B, L, V)."""
        raise NotImplementedError
