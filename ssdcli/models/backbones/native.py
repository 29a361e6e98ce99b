"""A native transformers language model behind the engine's Backbone: every pulled core is one."""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from ssdcli.engine.flops import Sizes
from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.core_backbone import CoreBackbone
from ssdcli.models.backbones.native_cache import borrowed
from ssdcli.models.core_spec import CoreSpec

IN_FOURS = "grouped_mm_in_fours"  # its name for `set_experts_implementation`

_FOUR = 4


class NativeBackbone(CoreBackbone):
    """log p of clean tokens from noised ones, by a class with a body, input embeddings and a head."""

    def __init__(self, model: PreTrainedModel, spec: CoreSpec, block_size: int | None = None) -> None:
        """Wrap a loaded model; `block_size` replaces the one that a core with full attention proposes."""
        self.model = model
        super().__init__(spec, block_size, self.device)
        self.layer_count = model.config.get_text_config().num_hidden_layers
        self.sizes = self._sized()
        if experts_per_token(model.config) and self.device.type == "cpu":
            model.set_experts_implementation(IN_FOURS)

    def _sized(self) -> Sizes:
        return sizes(self.model)

    @property
    def layers(self) -> PreTrainedModel:
        """The native module whose linear layers get adapters."""
        return self.model

    @property
    def _table(self) -> Tensor:
        """The input embeddings of clean tokens: (V, H)."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight

    @cached_property
    def _mixed(self) -> Tensor:
        """The embeddings whose mixtures a canvas is, gathered if ranks hold a part each: (V, H)."""
        table = self._table
        return table.full_tensor() if isinstance(table, DTensor) else table

    def embed(self, tokens: Tensor) -> Tensor:
        """Clean token embeddings: (B, L) int64 to (B, L, H)."""
        table: Any = self.model.get_input_embeddings()
        embedded: Tensor = table(tokens)
        return embedded

    def _run(self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | None) -> Tensor:
        hidden: Tensor = self._result(embedded, positions, mask, cache).last_hidden_state
        return hidden

    def _result(
        self, embedded: Tensor, positions: Tensor, mask: Any, cache: PrefixCache | None, *, all_layers: bool = False
    ) -> Any:
        """What the body returns; with all layers, also the hidden states after each."""
        body: Any = self.model.base_model
        return body(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=borrowed(cache),
            use_cache=cache is not None,
            output_hidden_states=all_layers,
        )

    def _scores(self, hidden: Tensor) -> Tensor:
        head: Any = self.model.get_output_embeddings()
        scores: Tensor = head(hidden)
        return scores


def sizes(model: PreTrainedModel) -> Sizes:
    """The multiply-adds of a model's parts, however its weights are stored; of experts, those that run."""
    with torch.device("meta"):
        return sizes_as_stored(type(model)(deepcopy(model.config)))


def sizes_as_stored(twin: Any) -> Sizes:
    """The same for a model whose weights have their own shapes."""
    config: Any = twin.config.get_text_config()
    table = twin.get_input_embeddings().weight
    own = {id(table), id(twin.get_output_embeddings().weight)}
    weights = [weight for weight in twin.base_model.parameters() if id(weight) not in own]
    experts = [weight for weight in weights if weight.ndim == 3]
    running = sum(weight[0].numel() for weight in experts) * experts_per_token(config)
    heads = config.num_hidden_layers * config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Sizes(
        body=sum(weight.numel() for weight in weights if weight.ndim == 2) + running,
        attention=heads * width,
        table=table.numel(),
    )


def experts_per_token(config: PreTrainedConfig) -> int:
    """How many experts of a layer work on a token; 0 without experts."""
    text: Any = config.get_text_config()
    return int(getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None) or 0)


def _in_fours(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The experts' weighted sums for tokens (N, H), where index (N, k) names each token's experts: (N, H).

    A matrix product on a CPU rounds the last rows differently when their number is not a multiple of four, and then a
    token's result would depend on the others of its expert. So each expert's tokens are padded to a multiple of four.
    Padding that no expert needs goes to an expert that does not exist, and is skipped.
    """
    count = experts.num_experts
    pairs, chosen = hidden.repeat_interleave(index.shape[1], dim=0), index.flatten()
    lacking = -torch.bincount(chosen, minlength=count) % _FOUR
    places, numbers = torch.arange(_FOUR - 1, device=index.device), torch.arange(count, device=index.device)
    fillers = torch.where(places < lacking[:, None], numbers[:, None], count).flatten()
    said = grouped_mm_experts_forward(
        experts,
        torch.cat([pairs, pairs.new_zeros(len(fillers), pairs.shape[1])]),
        torch.cat([chosen, fillers])[:, None],
        torch.cat([weights.flatten(), weights.new_zeros(len(fillers))])[:, None],
    )
    return said[: len(pairs)].view(*index.shape, -1).sum(1)


ALL_EXPERTS_FUNCTIONS.register(IN_FOURS, _in_fours)
