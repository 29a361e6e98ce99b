"""DiffusionGemma behind the engine's Backbone: its encoder reads prefixes, its decoder the canvas after them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaDecoderModel, DiffusionGemmaForBlockDiffusion
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from ssdcli.engine.flops import Sizes
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.core_spec import CoreSpec

_SLIDING = "sliding_attention"


class DiffusionGemmaBackbone(NativeBackbone):
    """log p of clean tokens from noised ones, by a DiffusionGemmaForBlockDiffusion.

    A prefix is read causally. A canvas sees all of itself and of the prefix; in layers with a sliding window, only
    the columns of the prefix that these keep: one fewer than the window.
    """

    self_conditioned = True
    forgets = True
    model: DiffusionGemmaForBlockDiffusion

    def __init__(self, model: Any, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model."""
        super().__init__(model, spec, block_size)
        self._kinds: list[str] = model.config.text_config.layer_types
        self._window: int = model.config.text_config.sliding_window

    def _sized(self) -> Sizes:
        return _sizes(self.model.config)

    def embed_mixture(self, p: Tensor) -> Tensor:
        """Expected embeddings: p (B, L, V) to (B, L, H)."""
        return self._scaled(super().embed_mixture(p))

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of embeddings; the rest of the weight, up to 1, is spread over all: (B, L, S) to (B, L, H)."""
        return self._scaled(super().embed_sparse(ids, weights))

    def _scaled(self, embedded: Tensor) -> Tensor:
        scale: Any = self.model.get_input_embeddings().embed_scale  # `embed` applies it by itself
        scaled: Tensor = embedded * scale.to(embedded.dtype)
        return scaled

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Add the self-conditioning signal of the previous prediction's embedding (B, L, H), and norm; t is unused."""
        signal = torch.zeros_like(embedded) if previous is None else previous
        conditioned: Tensor = self.model.model.decoder.self_conditioning(embedded, signal)
        return conditioned

    def new_cache(self) -> PrefixCache:
        """An empty KV cache."""
        sliding = (kind == _SLIDING for kind in self._kinds)
        return PrefixCache(
            [DynamicSlidingWindowLayer(self._window) if slides else DynamicLayer() for slides in sliding]
        )

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache | None) -> Tensor:
        """Run the decoder after the cache of a prefix, which is not changed: (B, L, H) to (B, L, H)."""
        decoder = self.model.model.decoder
        masks = self._masks(mask, mask)
        turns = {kind: decoder.rotary_emb(embedded, positions, kind) for kind in set(self._kinds)}
        hidden = embedded
        for kind, layer in zip(self._kinds, decoder.layers, strict=True):
            hidden = layer(
                hidden,
                position_embeddings=turns[kind],
                attention_mask=masks[kind],
                position_ids=positions,
                past_key_values=None if cache is None else Cache(cache.layers),
            )
        normed: Tensor = decoder.norm(hidden)
        return normed

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: PrefixCache) -> PrefixCache:
        """The cache with (B, L, H), read by the encoder, appended."""
        grown = cache.view()
        length, width = mask.shape[-2:]
        near = mask.new_ones(length, width).triu(width - length - self._window + 1)
        encoder: Any = self.model.model.encoder.language_model
        encoder(
            inputs_embeds=embedded,
            attention_mask=self._masks(mask, mask & near),
            position_ids=positions,
            past_key_values=Cache(grown.layers),
        )
        return grown

    def _masks(self, full: Tensor, sliding: Tensor) -> dict[str, Tensor]:
        """Masks (B, 1, L, P + L) by kind of layer; those with a window lack the columns that they have dropped."""
        length, width = full.shape[-2:]
        return {"full_attention": full, _SLIDING: sliding[..., max(0, width - length - self._window + 1) :]}

    def _scores(self, hidden: Tensor) -> Tensor:
        cap = self.model.final_logit_softcapping
        return torch.tanh(super()._scores(hidden).float() / cap) * cap


def _sizes(config: DiffusionGemmaConfig) -> Sizes:
    """The multiply-adds of its parts; of experts, those that run."""
    with torch.device("meta"):
        decoder: Any = DiffusionGemmaDecoderModel(config)
    text: Any = config.text_config
    layers = list(decoder.layers.parameters())
    running = sum(weight[0].numel() for weight in layers if weight.ndim == 3) * text.top_k_experts
    return Sizes(
        body=sum(weight.numel() for weight in layers if weight.ndim == 2) + running,
        attention=sum(text.num_attention_heads * layer.self_attn.head_dim for layer in decoder.layers),
        table=decoder.embed_tokens.weight.numel(),
        self_conditioning=sum(weight.numel() for weight in decoder.self_conditioning.parameters() if weight.ndim == 2),
    )
