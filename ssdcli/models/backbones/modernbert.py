"""ModernBERT (Warner et al., 2024) behind the engine's Backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssdcli.errors import UsageError
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.native import NativeBackbone


class ModernBertBackbone(NativeBackbone):
    """log p of clean tokens from noised ones, by a ModernBertForMaskedLM."""

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        if cache is not None:
            raise UsageError("ModernBERT keeps no prefix cache.", "Omit --cache.")
        distance = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
        near = mask & (distance <= self.model.config.sliding_window)
        body: Any = self.model.base_model
        masks = {"full_attention": mask, "sliding_attention": near}
        hidden: Tensor = body(inputs_embeds=embedded, position_ids=positions, attention_mask=masks).last_hidden_state
        return hidden

    def _scores(self, hidden: Tensor) -> Tensor:
        model: Any = self.model
        scores: Tensor = model.decoder(model.head(hidden))
        return scores
