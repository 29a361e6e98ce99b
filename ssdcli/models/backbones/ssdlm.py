"""RoBERTa (Liu et al., 2019) and SSD-LM (Han et al., ACL 2023), a RoBERTa with a second table for noised tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForMaskedLM

from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.core_spec import CoreSpec


class RobertaBackbone(NativeBackbone):
    """log p of clean tokens from noised ones, by a RobertaForMaskedLM."""

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        # In RoBERTa's table of positions, the first is after the row of the padding's id.
        return super()._run(embedded, positions + self.model.config.pad_token_id + 1, mask, cache)

    def _scores(self, hidden: Tensor) -> Tensor:
        head: Any = self.model.lm_head  # it has a layer before the output embeddings
        scores: Tensor = head(hidden)
        return scores


class SsdLmForDiffusion(RobertaForMaskedLM):
    """The class that `from_pretrained` loads: RoBERTa and SSD-LM's two layers, named after their files."""

    _keep_in_fp32_modules = ["embed_sum_layer", "timestep_layer"]  # noqa: RUF012 - stay in float32 under float16, and are not quantised

    def __init__(self, config: RobertaConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.embed_sum_layer = nn.Linear(config.vocab_size, config.hidden_size, bias=False)
        self.timestep_layer = nn.Linear(1, config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]


class SsdLmBackbone(RobertaBackbone):
    """log p of clean tokens from noised ones, by an SsdLmForDiffusion."""

    model: SsdLmForDiffusion

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model, and lay its table of noised tokens out token by token."""
        super().__init__(model, spec, block_size)
        self.sizes = replace(self.sizes, time=model.config.hidden_size)
        weight = model.embed_sum_layer.weight
        weight.data = weight.data.T.contiguous().T

    @property
    def _mixed(self) -> Tensor:
        return self.model.embed_sum_layer.weight.T

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Add the noise level's embedding W t + b, t (B, L); there is no self-conditioning."""
        assert t is not None
        level = self.model.timestep_layer(t[..., None].to(self._mixed.dtype))
        conditioned: Tensor = (embedded + level).to(self._table.dtype)
        return conditioned
