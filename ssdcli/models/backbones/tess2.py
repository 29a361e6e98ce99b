"""TESS-2 (Tae et al., ACL 2025) behind the engine's Backbone: a self-conditioned Mistral."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM

from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.core_spec import CoreSpec


class Tess2ForDiffusion(MistralForCausalLM):
    """The class that `from_pretrained` loads: Mistral and an embedding of the noise level."""

    _keep_in_fp32_modules = ["timestep_embed"]  # noqa: RUF012 - stays in float32 under float16, and is not quantised

    def __init__(self, config: MistralConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.timestep_embed = nn.Linear(1, config.hidden_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]


class Tess2Backbone(NativeBackbone):
    """log p of clean tokens from noised ones, by a Tess2ForDiffusion."""

    model: Tess2ForDiffusion
    self_conditioned = True

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model."""
        super().__init__(model, spec, block_size)
        self.sizes = replace(self.sizes, time=model.config.hidden_size, self_conditioning=0)

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Average the canvas (B, L, H) and the previous prediction, and add the noise level's embedding W t.

        Without a previous prediction the mean embedding stands in: TESS-2 was trained with a softmax of zeros there.
        """
        assert t is not None
        previous = self._mean() if previous is None else previous
        level = self.model.timestep_embed(t[..., None].to(self.model.timestep_embed.weight.dtype))
        conditioned: Tensor = ((embedded + previous) / 2 + level).to(self._table.dtype)
        return conditioned

    def _mean(self) -> Tensor:
        """The mean of all embeddings: (1, 1, H)."""
        nothing = torch.zeros(1, 1, 1, device=self.device)
        return self.embed_sparse(nothing.long(), nothing)
