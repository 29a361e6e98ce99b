"""A causal core that is run by its class in transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.causal import SLIDING, CausalCore
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.core_spec import CoreSpec


class NativeCausalBackbone(CausalCore, NativeBackbone):
    """log p of the next token, by a causal class of transformers."""

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model."""
        NativeBackbone.__init__(self, model, spec, block_size)
        self._configure(model.config.get_text_config().to_dict())
        self._adds_masks = model.config._attn_implementation == "eager"

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        """Run the body with a mask for each kind of layer that the class has; without one, it makes its own."""
        own = None if mask is None else self._masks(mask, embedded.dtype)
        result = self._result(embedded, positions, own, cache, all_layers=bool(self._wanted))
        inner = [result.hidden_states[layer] for layer in self._wanted]
        return self._told(result.last_hidden_state, inner, positions, cache)

    def scores_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The head's scores of some ids; no others are computed."""
        head: Any = self.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        return self._capped(nn.functional.linear(hidden, head.weight[ids], None if bias is None else bias[ids]))

    def head_rows(self, ids: Tensor) -> Tensor:
        """The head's weights of some ids (n,) int64: (n, H)."""
        head: Any = self.model.get_output_embeddings()
        rows: Tensor = head.weight[ids]
        return rows

    def _masks(self, mask: Tensor, dtype: torch.dtype) -> Any:
        """The mask (B, 1, L, K) as the class takes it: one for all layers, or one for each kind of layer."""
        if not self._kinds:
            return self._as_read(self._near(mask), dtype)
        return {kind: self._as_read(self._near(mask) if kind == SLIDING else mask, dtype) for kind in self._kinds}

    def _as_read(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as the class's attention reads it: booleans, or numbers that are added to the scores."""
        if not self._adds_masks:
            return mask
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)

    def _head(self, hidden: Tensor) -> Tensor:
        head: Any = self.model.get_output_embeddings()
        scores: Tensor = head(hidden)
        return scores
