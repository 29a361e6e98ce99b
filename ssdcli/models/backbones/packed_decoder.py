"""The layers of a causal language model on a CPU, in as few operators as can be.

Over one token, transformers' own code spends half of its time between the matrix products. Here the weights are packed
(see `packed_linear`), queries, keys and values come out of one product, and what follows a product is part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from ssdcli.models.backbones.cache import PrefixCache
from ssdcli.models.backbones.packed_linear import PackedLinear, Packing
from ssdcli.models.packable import NORM_OFFSETS

FEW_QUERIES = 16  # queries up to which the heads that share keys are read as one head with more queries
_ALL = "full_attention"  # the kind of a layer of a class that has one kind

Masks = Mapping[str, Tensor | None]


class PackedDecoder:
    """A body and its head: states of the embedded tokens, and the scores of the tokens after them."""

    def __init__(self, model: PreTrainedModel, packing: Packing) -> None:
        """Pack a loaded model's weights, layer by layer; its own layers are dropped, and cannot be run any more."""
        body: Any = model.base_model
        config: Any = model.config.get_text_config()
        kinds: Sequence[str] = getattr(config, "layer_types", None) or [_ALL] * config.num_hidden_layers
        activation = getattr(config, "hidden_activation", None) or config.hidden_act
        parts = _Parts(NORM_OFFSETS[type(model).__name__], activation, packing)
        self._layers = []
        for number, kind in enumerate(kinds):
            self._layers.append(_Layer(body.layers[number], kind, parts))
            body.layers[number] = nn.Identity()
        self._norm = parts.norm(body.norm)
        self._rotary = body.rotary_emb.to(torch.float32)
        self._by_kind = isinstance(getattr(self._rotary, "rope_type", None), dict)
        head: Any = model.get_output_embeddings()
        self._head = packing.head(head.weight.data, _data(head.bias))
        model.set_output_embeddings(nn.Identity())
        model.get_input_embeddings().to(packing.dtype)

    def __call__(
        self, x: Tensor, positions: Tensor, masks: Masks, cache: PrefixCache | None, inner: Sequence[int] = ()
    ) -> tuple[Tensor, ...]:
        """Run the layers over (B, n, H) after a cache, which grows.

        masks: for each kind of layer (B, 1, n, K) bool; None where each token sees itself and all before it. inner:
        after how many layers states are wanted as well, 0 for the embeddings. Returns the last states, then those.
        """
        rotations = self._rotations(x, positions)
        added = {kind: _added(mask, x.dtype) for kind, mask in masks.items()}
        found = {}
        for number, layer in enumerate(self._layers):
            found[number] = x
            kept = None if cache is None else cache.layers[number]
            x = layer(x, rotations[layer.kind], added[layer.kind], kept)
        return (self._norm(x), *(found[number] for number in inner))

    def scores(self, hidden: Tensor) -> Tensor:
        """The head's scores for states (..., H): (..., V)."""
        return self._head(hidden.reshape(1, -1, hidden.shape[-1])).view(*hidden.shape[:-1], -1)

    @property
    def kinds(self) -> set[str]:
        """The kinds of layers, which may differ in what they see."""
        return {layer.kind for layer in self._layers}

    def _rotations(self, x: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """The cosines and signed sines of each kind's rotary embedding, (B, n, 1, d)."""
        found = {}
        for kind in self.kinds:
            cos, sin = self._rotary(x, positions, *([kind] if self._by_kind else []))
            sin[..., : sin.shape[-1] // 2].neg_()
            found[kind] = cos[:, :, None], sin[:, :, None]
            if not self._by_kind:
                return dict.fromkeys(self.kinds, found[kind])
        return found


@dataclass(frozen=True)
class _Norm:
    """RMSNorm (Zhang and Sennrich, 2019)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True)
class _Parts:
    """How the parts of a model are made.

    offset: what a norm adds to its weight.
    activation: of the feed-forward network.
    packing: of linear layers.
    """

    offset: int
    activation: str
    packing: Packing

    def norm(self, norm: Any) -> _Norm:
        weight = (norm.weight.data.float() + self.offset).to(self.packing.dtype)
        return _Norm(weight, getattr(norm, "variance_epsilon", None) or norm.eps)

    def norm_of(self, module: Any, name: str) -> _Norm | None:
        """The norm of this name, if a module has it."""
        return self.norm(getattr(module, name)) if hasattr(module, name) else None

    def linear(self, *layers: Any) -> PackedLinear:
        """Linear layers of the same input as one, their outputs side by side."""
        biases = [layer.bias.data for layer in layers if layer.bias is not None]
        weights = [layer.weight.data for layer in layers]
        if len(layers) == 1:
            return self.packing.layers(weights[0], biases[0] if biases else None)
        return self.packing.layers(torch.cat(weights), torch.cat(biases) if biases else None)


class _Layer:
    """Attention and feed-forward network, each on the normalised stream, to which it adds."""

    def __init__(self, layer: Any, kind: str, parts: _Parts) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.kind = kind
        self._activation = parts.activation
        self._width: int = attention.head_dim
        self._heads = attention.q_proj.out_features // self._width
        self._groups = attention.k_proj.out_features // self._width
        self._scale: float = attention.scaling
        self._rotates = bool(getattr(attention, "use_rope", True))
        self._qkv = parts.linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = parts.linear(attention.o_proj)
        self._gate, self._up, self._down = map(parts.linear, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self._query_norm = parts.norm_of(attention, "q_norm")
        self._key_norm = parts.norm_of(attention, "k_norm")
        self._before_attention = parts.norm(layer.input_layernorm)
        sandwiched = hasattr(layer, "pre_feedforward_layernorm")  # then what is added is normalised, too
        self._before_mlp = parts.norm(layer.pre_feedforward_layernorm if sandwiched else layer.post_attention_layernorm)
        self._after_attention = parts.norm(layer.post_attention_layernorm) if sandwiched else None
        self._after_mlp = parts.norm_of(layer, "post_feedforward_layernorm")

    def __call__(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any | None) -> Tensor:
        """(B, n, H) to (B, n, H); mask: numbers to be added to the scores; cache: this layer's, which grows."""
        seen = self._attention(self._before_attention(x), rotation, mask, cache)
        x = self._out.plus(seen, x) if self._after_attention is None else x + self._after_attention(self._out(seen))
        y = self._before_mlp(x)
        wide = self._up.times(y, self._gate.activated(y, self._activation))
        return self._down.plus(wide, x) if self._after_mlp is None else x + self._after_mlp(self._down(wide))

    def _attention(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: Any | None) -> Tensor:
        rows, count, _ = x.shape
        both = self._heads + self._groups
        mixed = self._qkv(x).view(rows, count, both + self._groups, self._width)
        turned, values = mixed[:, :, :both], mixed[:, :, both:].transpose(1, 2)
        if self._query_norm is not None and self._key_norm is not None:
            parts = self._query_norm(mixed[:, :, : self._heads]), self._key_norm(mixed[:, :, self._heads : both])
            turned = torch.cat(parts, dim=2)
        if self._rotates:
            cos, sin = rotation
            turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin)
        keys = turned[:, :, self._heads :].transpose(1, 2)
        if cache is not None:
            keys, values = cache.update(keys, values)
        return self._seen(turned[:, :, : self._heads], keys, values, mask)

    def _seen(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries (B, n, heads, d) to keys and values (B, groups, K, d): (B, n, heads * d)."""
        rows, count, heads, width = queries.shape
        if count > FEW_QUERIES:
            seen = functional.scaled_dot_product_attention(
                queries.transpose(1, 2), keys, values, mask, is_causal=mask is None, scale=self._scale, enable_gqa=True
            )
            return seen.transpose(1, 2).reshape(rows, count, heads * width)
        share = heads // self._groups  # queries that read the same keys are rows of one product
        together = queries.view(rows, count, self._groups, share, width).permute(0, 2, 3, 1, 4)
        together = together.reshape(rows, self._groups, share * count, width)
        mask = None if mask is None else mask.repeat(1, 1, share, 1)
        seen = functional.scaled_dot_product_attention(together, keys, values, mask, scale=self._scale)
        seen = seen.view(rows, self._groups, share, count, width).permute(0, 3, 1, 2, 4)
        return seen.reshape(rows, count, heads * width)


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as numbers to be added to scores; finite ones, because padding may see nothing."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def _data(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.data
