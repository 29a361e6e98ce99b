"""The layers of a causal language model on a CPU, in as few operators as can be.

Over one token, transformers' own code spends half of its time between the matrix products. Here the weights are packed
(see `packed_linear`), queries, keys and values come out of one product, and what follows a product is part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.engine.flops import Sizes
from ssdcli.models.backbones.cache import CacheLayer, PrefixCache
from ssdcli.models.backbones.packed_linear import (
    TOGETHER,
    FourBits,
    Matrix,
    OneDnnLinear,
    PackedLinear,
    Packing,
    Update,
    packed_in_4_bits,
)
from ssdcli.models.backbones.rotary import Rotary
from ssdcli.models.packable import PACKABLE, shapes, width_of_head

FEW_QUERIES = TOGETHER  # queries up to which the heads that share keys are read as one head with more queries
_LEAST_ROWS = 4, 16, 32  # of a product of these, of which one may make torch's attention on CPUs sum up all alike
_SLICE = 32  # of them that it takes at a time
_TRIED_QUERIES = 2, 3, 5, 6, 11, 22, 32  # with which it is found out whether one does,
_TRIED_COLUMNS = 96, 600  # of which it reads 512 at a time
_ALL = "full_attention"  # the kind of a layer of a class that has one kind
_ROTARY = "rope_parameters"

Masks = Mapping[str, Tensor | None]
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Weights:
    """Where a model's weights come from, and how they are packed.

    read: a tensor by its name, if there is one.
    packing: of the layers and all else.
    update: what an adapter adds to the tensor of a linear layer, if anything.
    in_4_bits: packs a layer of this name in 4 bits.
    """

    read: Callable[[str], Tensor | None]
    packing: Packing
    update: Callable[[str], Update | None] = lambda _: None
    in_4_bits: Callable[[str, Matrix], FourBits] = lambda _, matrix: packed_in_4_bits(matrix)


@dataclass(frozen=True)
class RowPass:
    """A few tokens of one row, to be read after its cache, which grows.

    x: embedded, (1, n, H).
    positions: (1, n).
    masks: for each kind of layer, as `PackedDecoder` takes them.
    """

    x: Tensor
    positions: Tensor
    masks: Masks
    cache: PrefixCache


class PackedDecoder:
    """Embeddings, layers and head: states of the embedded tokens, and the scores of the tokens after them.

    table: the embeddings of tokens, (V, H).
    kinds: the kinds of layers, which may differ in what they see.
    sizes: the multiply-adds of its parts.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        """Read and pack the weights of a model, layer by layer.

        config: the native configuration, complete as transformers has it. KeyError for what it lacks, ValueError for
        weights that contradict it.
        """
        parts, packing = _Parts(config, weights), weights.packing
        table = parts.tensor("model.embed_tokens.weight")
        self.table = table.to(packing.dtype)
        self._scale = None
        if parts.kind.scales_embeddings:
            self._scale = torch.tensor(config["hidden_size"] ** 0.5).to(packing.dtype)
        self._layers = [_Layer(parts, number) for number in range(config["num_hidden_layers"])]
        self.kinds = {layer.kind for layer in self._layers}
        self.sees_alike = self._made_to_see_alike()
        self._rotary = {kind: parts.rotary(kind) for kind in self.kinds}
        self._norm = parts.norm("model.norm")
        head = parts.optional("lm_head.weight")
        self._head = packing.head(Matrix([self.table if head is None else head]))
        self.tied = head is None
        attention = sum(layer.attention for layer in self._layers)
        self.sizes = Sizes(body=parts.multiply_adds, attention=attention, table=self.table.numel())

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings: (B, L) int64 to (B, L, H)."""
        embedded = functional.embedding(tokens, self.table)
        return embedded if self._scale is None else embedded * self._scale

    def __call__(
        self, x: Tensor, positions: Tensor, masks: Masks, cache: PrefixCache | None, inner: Sequence[int] = ()
    ) -> tuple[Tensor, ...]:
        """Run the layers over (B, n, H) after a cache, which grows.

        masks: for each kind of layer (B, 1, n, K) bool; None where each token sees itself and all before it. inner:
        after how many layers states are wanted as well, 0 for the embeddings. Returns the last states, then those.
        """
        rotations = {kind: rotary(positions, x.dtype) for kind, rotary in self._rotary.items()}
        added = {kind: self._added(mask) for kind, mask in masks.items()}
        found = {}
        for number, layer in enumerate(self._layers):
            found[number] = x
            kept = None if cache is None else cache.layers[number]
            x = layer(x, rotations[layer.kind], added[layer.kind], kept)
        return (self._norm(x), *(found[number] for number in inner))

    def together(self, passes: Sequence[RowPass], inner: Sequence[int] = ()) -> list[tuple[Tensor, ...]]:
        """Run the layers over a few tokens of each of several rows, whose matrix products they share.

        Attention is each row's own, so that its states are those of a call of its own where `is_same_beside_rows`, and
        those of each token a call for it alone, with a mask as wide, where it also `sees_alike`. Returns for each row
        the last states and inner ones, (1, n, H), as a call does.
        """
        counts = [one.x.shape[1] for one in passes]
        x = torch.cat([one.x for one in passes], dim=1).transpose(0, 1)  # (N, 1, H): as short rows, see `ByLength`
        positions = torch.cat([one.positions for one in passes], dim=1).transpose(0, 1)
        rotations = {kind: rotary(positions, x.dtype) for kind, rotary in self._rotary.items()}
        added = [{kind: self._added(mask) for kind, mask in one.masks.items()} for one in passes]
        found = {}
        for number, layer in enumerate(self._layers):
            found[number] = x
            seen = [(masks[layer.kind], one.cache.layers[number]) for masks, one in zip(added, passes, strict=True)]
            x = layer.together(x, rotations[layer.kind], counts, seen)
        states = (self._norm(x), *(found[number] for number in inner))
        parts = [state.transpose(0, 1).split(counts, dim=1) for state in states]
        return list(zip(*parts, strict=True))

    @property
    def in_16_bits(self) -> bool:
        """Whether passes over a few tokens read the layers in bfloat16, which the CPU multiplies natively."""
        return all(isinstance(layer, OneDnnLinear) for layer, _ in self._layers[0].products())

    def is_same_beside_rows(self) -> bool:
        """Whether this CPU's products give a row the same, bit for bit, whatever rows are beside it."""
        products = [product for layer in self._layers for product in enumerate(layer.products())]
        kinds = {(place, layer.kind): (layer, width) for place, (layer, width) in products}
        tried = (*kinds.values(), (self._head, self.table.shape[1]))
        return all(layer.is_same_beside(width, self.table.dtype) for layer, width in tried)

    def _made_to_see_alike(self) -> bool:
        """Let attention give each query the same, bit for bit, whatever queries are beside it, if this CPU can."""
        for rows in _LEAST_ROWS:
            for layer in self._layers:
                layer.least_rows = rows
            if all(self._layers[0].sees_alike(self.table.dtype, columns) for columns in _TRIED_COLUMNS):
                return True
        for layer in self._layers:
            layer.least_rows = 1
        return False

    def _added(self, mask: Tensor | None) -> Tensor | None:
        """A mask as numbers to be added to scores; those of a few queries as `_Layer.few` takes them."""
        if mask is None:
            return None
        dtype = self.table.dtype  # whose least number is finite, because padding may see nothing
        added = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
        return added if mask.shape[2] > FEW_QUERIES else self._layers[0].few(added)

    def scores(self, hidden: Tensor) -> Tensor:
        """The head's scores for states (..., H): (..., V)."""
        return self._head(hidden.reshape(1, -1, hidden.shape[-1])).view(*hidden.shape[:-1], -1)


@dataclass(frozen=True)
class _Norm:
    """RMSNorm (Zhang and Sennrich, 2019)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Parts:
    """Reads the parts of a model, and counts the multiply-adds of its layers.

    kind: what its class does beside the usual.
    width: of a head.
    """

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        self.config, self._weights = config, weights
        self.kind = PACKABLE[config["architectures"][0]]
        self.width = width_of_head(config)
        self._shapes = shapes(config)
        self.multiply_adds = 0

    def tensor(self, name: str) -> Tensor:
        """A tensor that the configuration announces; ValueError if it is missing or of another shape."""
        found, shape = self._weights.read(name), self._shapes[name]
        if found is None or found.shape != shape:
            there = "is missing" if found is None else f"is of {tuple(found.shape)}"
            raise ValueError(f"{name} should be of shape {shape}, and {there}")
        return found

    def optional(self, name: str) -> Tensor | None:
        """A tensor that the configuration may announce."""
        return self.tensor(name) if name in self._shapes else None

    def norm(self, name: str) -> _Norm:
        weight = self.tensor(f"{name}.weight").float() + self.kind.norm_offset
        return _Norm(weight.to(self._weights.packing.dtype), self.config["rms_norm_eps"])

    def linear(self, *names: str) -> PackedLinear:
        """Linear layers of the same input as one, their outputs side by side."""
        weights = [self.tensor(f"{name}.weight") for name in names]
        found = [bias for name in names if (bias := self.optional(f"{name}.bias")) is not None]
        self.multiply_adds += sum(weight.numel() for weight in weights)
        update = Update.beside([self._weights.update(f"{name}.weight") for name in names], [*map(len, weights)])
        bias, pack = torch.cat(found) if found else None, partial(self._weights.in_4_bits, names[0])
        return self._weights.packing.layers(Matrix(weights, bias, update, pack))

    def layer_type(self, number: int) -> str:
        """The kind of a layer."""
        kinds: Sequence[str] | None = self.config.get("layer_types")
        return kinds[number] if kinds else _ALL

    def rotary(self, kind: str) -> Rotary:
        """The rotary embedding of a kind of layer."""
        told = self.config[_ROTARY]
        return Rotary.of(told.get(kind, told), self.width)


class _Layer:
    """Attention and feed-forward network, each on the normalised stream, to which it adds.

    kind: what it sees.
    attention: the width of all its heads.
    share: the heads that read the same keys.
    least_rows: of a product of queries that read the same keys, with padding.
    """

    least_rows = 1

    def __init__(self, parts: _Parts, number: int) -> None:
        config, kind, own = parts.config, parts.kind, f"model.layers.{number}"
        attention, mlp = f"{own}.self_attn", f"{own}.mlp"
        self.kind = parts.layer_type(number)
        self._activation = config.get("hidden_activation") or config["hidden_act"]
        self._width, self._heads = parts.width, config["num_attention_heads"]
        self._groups = config["num_key_value_heads"]
        self.share = self._heads // self._groups
        self.attention = self._heads * self._width
        self._size, self._wide = config["hidden_size"], config["intermediate_size"]
        self._scale: float = (config[kind.scale] if kind.scale else self._width) ** -0.5
        self._rotates = bool(config[kind.rotated][number]) if kind.rotated else True
        self._qkv = parts.linear(*(f"{attention}.{name}_proj" for name in "qkv"))
        self._out = parts.linear(f"{attention}.o_proj")
        self._gate, self._up, self._down = (parts.linear(f"{mlp}.{name}_proj") for name in ("gate", "up", "down"))
        self._query_norm = parts.norm(f"{attention}.q_norm") if kind.normed else None
        self._key_norm = parts.norm(f"{attention}.k_norm") if kind.normed else None
        self._before_attention = parts.norm(f"{own}.input_layernorm")
        after, before_mlp = f"{own}.post_attention_layernorm", f"{own}.pre_feedforward_layernorm"
        self._before_mlp = parts.norm(before_mlp if kind.sandwiched else after)
        self._after_attention = parts.norm(after) if kind.sandwiched else None
        self._after_mlp = parts.norm(f"{own}.post_feedforward_layernorm") if kind.sandwiched else None

    def products(self) -> Iterator[tuple[PackedLinear, int]]:
        """Its matrix products, each with the width of what it takes."""
        yield from ((layer, self._size) for layer in (self._qkv, self._gate, self._up))
        yield from ((self._out, self.attention), (self._down, self._wide))

    def __call__(self, x: Tensor, rotation: Rotation, mask: Tensor | None, cache: CacheLayer | None) -> Tensor:
        """(B, n, H) to (B, n, H); mask: numbers to be added to the scores; cache: this layer's, which grows."""
        turned, values = self._projected(self._before_attention(x), rotation)
        return self._after(x, self._attention(turned, values, mask, cache))

    def together(
        self, x: Tensor, rotation: Rotation, counts: list[int], seen: Sequence[tuple[Tensor | None, CacheLayer]]
    ) -> Tensor:
        """The same for tokens (N, 1, H), so many of each row, with the mask and the cache of each."""
        turned, values = self._projected(self._before_attention(x), rotation)
        own = zip(turned.split(counts), values.split(counts), seen, strict=True)
        parts = [self._attention(t.transpose(0, 1), v.transpose(0, 1), *how) for t, v, how in own]
        return self._after(x, torch.cat(parts, dim=1).transpose(0, 1))

    def _after(self, x: Tensor, seen: Tensor) -> Tensor:
        """The stream (B, n, H) with what attention saw, (B, n, heads * d), and what the network makes of it."""
        x = self._out.plus(seen, x) if self._after_attention is None else x + self._after_attention(self._out(seen))
        y = self._before_mlp(x)
        wide = self._up.times(y, self._gate.activated(y, self._activation))
        return self._down.plus(wide, x) if self._after_mlp is None else x + self._after_mlp(self._down(wide))

    def _projected(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Queries and keys, turned, (B, n, heads + groups, d), and values (B, n, groups, d)."""
        rows, count, _ = x.shape
        both = self._heads + self._groups
        mixed = self._qkv(x).view(rows, count, both + self._groups, self._width)
        turned, values = mixed[:, :, :both], mixed[:, :, both:]
        if self._query_norm is not None and self._key_norm is not None:
            parts = self._query_norm(mixed[:, :, : self._heads]), self._key_norm(mixed[:, :, self._heads : both])
            turned = torch.cat(parts, dim=2)
        if self._rotates:
            cos, sin = rotation
            turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin)
        return turned, values

    def _attention(self, turned: Tensor, values: Tensor, mask: Tensor | None, cache: CacheLayer | None) -> Tensor:
        """What queries see of their own tokens and of a cache, which grows: (B, n, heads * d)."""
        keys, values = turned[:, :, self._heads :].transpose(1, 2), values.transpose(1, 2)
        if cache is not None:
            keys, values = cache.update(keys, values)
            if mask is not None and mask.shape[-1] > keys.shape[2]:
                keys, values = cache.whole()  # whose spare columns the mask hides
        return self._seen(turned[:, :, : self._heads], keys, values, mask)

    def sees_alike(self, dtype: torch.dtype, columns: int) -> bool:
        """Whether a query sees the same of so many keys, bit for bit, whatever queries are beside it."""
        made = torch.Generator().manual_seed(0)
        keys, values = torch.randn(2, 1, self._groups, columns, self._width, generator=made).to(dtype)
        queries = torch.randn(1, FEW_QUERIES, self._heads, self._width, generator=made).to(dtype)
        hidden = torch.ones(FEW_QUERIES, columns).triu(columns - FEW_QUERIES + 1).bool()
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)

        def seen(first: int, last: int) -> Tensor:
            return self._seen(queries[:, first:last], keys, values, self.few(mask[None, None, first:last]))

        alone = torch.cat([seen(place, place + 1) for place in range(FEW_QUERIES)], dim=1)
        return all(torch.equal(seen(0, count), alone[:, :count]) for count in _TRIED_QUERIES)

    def few(self, mask: Tensor) -> Tensor:
        """The mask (B, 1, n, K) of a few queries, once for each head that shares their keys, with rows of padding.

        They are so many that no row of the product is computed in another way than the others.
        """
        rows = self.share * mask.shape[2]
        lack = max(0, self.least_rows - rows % _SLICE) if rows % _SLICE else 0
        return functional.pad(mask.repeat(1, 1, self.share, 1), (0, 0, 0, lack))

    def _seen(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries (B, n, heads, d) to keys and values (B, groups, K, d): (B, n, heads * d)."""
        rows, count, heads, width = queries.shape
        if count > FEW_QUERIES:
            seen = functional.scaled_dot_product_attention(
                queries.transpose(1, 2), keys, values, mask, is_causal=mask is None, scale=self._scale, enable_gqa=True
            )
            return seen.transpose(1, 2).reshape(rows, count, heads * width)
        # Queries that read the same keys are rows of one product, padded as their mask is.
        together = queries.view(rows, count, self._groups, self.share, width).permute(0, 2, 3, 1, 4)
        together = together.reshape(rows, self._groups, self.share * count, width)
        if mask is not None and mask.shape[2] > together.shape[2]:
            together = functional.pad(together, (0, 0, 0, mask.shape[2] - together.shape[2]))
        found = functional.scaled_dot_product_attention(together, keys, values, mask, scale=self._scale)
        seen = found[:, :, : self.share * count].view(rows, self._groups, self.share, count, width)
        return seen.permute(0, 3, 1, 2, 4).reshape(rows, count, heads * width)
