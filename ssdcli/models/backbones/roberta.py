"""RoBERTa (Liu et al., 2019) and what was made of it behind the engine's Backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.native import NativeBackbone


class RobertaBackbone(NativeBackbone):
    """log p of clean tokens from noised ones, by a RobertaForMaskedLM."""

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        # The first rows of its table of positions, up to that of the padding's id, are no positions.
        return super()._run(embedded, positions + self.model.config.pad_token_id + 1, mask, cache)

    def _scores(self, hidden: Tensor) -> Tensor:
        head: Any = self.model.lm_head  # a layer more than the output embeddings
        scores: Tensor = head(hidden)
        return scores
