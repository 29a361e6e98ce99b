"""DFlash: a block of tokens drafted at once from a causal core's states (Chen et al., 2026, arXiv 2602.06036).

With c_j the core's states at token j after a few of its layers, side by side, and e(x) its embeddings:

    u_j = rms(W c_j),                                    for each token that the core has read before the block
    h = e(x_0), e(mask), ..., e(mask),                   x_0 the last known token, which the core need not have read
    h = h + Attention(rms(h), [u; rms(h)]),  h = h + MLP(rms(h)),     layer by layer
    p(x_i) = the core's head of rms(h_i)

Keys and values come of the core's states and of the block itself, in which all tokens see each other; both go through
the same projections, with Qwen3's norms and rotary embeddings. Those of the states depend on one token each, so that
they are kept like the core's own, in further layers of its cache, and are cut with it. As in the authors' code
(github.com/z-lab/dflash), of which nothing is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssdcli.models.backbones.cache import CacheLayer, PrefixCache
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.rotary import Rotary

_FULL = "full_attention"
Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DFlashConfig:
    """What a published config.json says of a drafter.

    size: H, the core's and its own. wide: of its MLPs. depth: its layers. heads, groups: of queries and of keys.
    width: of a head. eps: of its norms. biased: whether its projections have biases. rotary: parameters of positions.
    block: the tokens of a block, x_0 included. mask: the id whose embedding hides a token.
    layers: the core's whose states it reads, as `CausalCore.tap` counts them. core_depth: how many that has.
    vocabulary: the core's, where it says so.
    """

    size: int
    wide: int
    depth: int
    heads: int
    groups: int
    width: int
    eps: float
    biased: bool
    rotary: Mapping[str, Any]
    block: int
    mask: int
    layers: tuple[int, ...]
    core_depth: int
    vocabulary: int | None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DFlashConfig:
        """Read a config.json; KeyError, TypeError or ValueError for one that lacks something or asks for another."""
        own = config.get("dflash_config") or {}
        if set(config.get("layer_types") or ()) - {_FULL} or config.get("hidden_act", "silu") != "silu":
            raise ValueError("it has layers with a sliding window, or of another kind, which are not known here")
        core_depth, depth = int(config["num_target_layers"]), int(config["num_hidden_layers"])
        read = own.get("target_layer_ids") or _spread(core_depth, depth)
        told = config.get("rope_parameters") or {
            "rope_theta": config["rope_theta"],
            **(config.get("rope_scaling") or {}),
        }
        return cls(
            size=int(config["hidden_size"]),
            wide=int(config["intermediate_size"]),
            depth=depth,
            heads=int(config["num_attention_heads"]),
            groups=int(config["num_key_value_heads"]),
            width=int(config["head_dim"]),
            eps=float(config["rms_norm_eps"]),
            biased=bool(config.get("attention_bias", False)),
            rotary={"rope_type": told.get("type", "default"), **told},
            block=int(config["block_size"]),
            mask=int(own["mask_token_id"] if "mask_token_id" in own else config["mask_token_id"]),
            layers=tuple(int(layer) + 1 for layer in read),
            core_depth=core_depth,
            vocabulary=config.get("vocab_size"),
        )


def _spread(core_depth: int, depth: int) -> list[int]:
    """The layers that are read where config.json does not name them."""
    if depth == 1:
        return [core_depth // 2]
    return [round(1 + place * (core_depth - 4) / (depth - 1)) for place in range(depth)]


class _Attention(nn.Module):
    """Queries of a block see the context's keys and its own."""

    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self._width = config.width
        queries, keys = config.heads * config.width, config.groups * config.width
        self.q_proj = nn.Linear(config.size, queries, config.biased)
        self.k_proj = nn.Linear(config.size, keys, config.biased)
        self.v_proj = nn.Linear(config.size, keys, config.biased)
        self.o_proj = nn.Linear(queries, config.size, config.biased)
        self.q_norm = nn.RMSNorm(config.width, config.eps)
        self.k_norm = nn.RMSNorm(config.width, config.eps)

    def context(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, n, H): (B, groups, n, d) each."""
        keys = _turned(self.k_norm(self._parted(self.k_proj(x))), rotation)
        return keys.transpose(1, 2), self._parted(self.v_proj(x)).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation, kept: CacheLayer, sees: Tensor) -> Tensor:
        """(B, n, H) to (B, n, H); sees: (B, 1, 1, K + n) bool, of the first K columns kept, and of its own."""
        assert kept.keys is not None
        assert kept.values is not None
        columns = sees.shape[-1] - x.shape[1]
        queries = _turned(self.q_norm(self._parted(self.q_proj(x))), rotation).transpose(1, 2)
        keys, values = self.context(x, rotation)
        keys = torch.cat([kept.keys[:, :, :columns], keys], dim=2)
        values = torch.cat([kept.values[:, :, :columns], values], dim=2)
        seen = functional.scaled_dot_product_attention(queries, keys, values, sees, enable_gqa=True)
        made: Tensor = self.o_proj(seen.transpose(1, 2).flatten(2))
        return made

    def _parted(self, x: Tensor) -> Tensor:
        """Heads side by side, (B, n, heads d), as (B, n, heads, d)."""
        parted: Tensor = x.unflatten(-1, (-1, self._width))
        return parted


class _Layer(nn.Module):
    def __init__(self, config: DFlashConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(config.size, config.wide, bias=False),
                "up_proj": nn.Linear(config.size, config.wide, bias=False),
                "down_proj": nn.Linear(config.wide, config.size, bias=False),
            }
        )
        self.input_layernorm = nn.RMSNorm(config.size, config.eps)
        self.post_attention_layernorm = nn.RMSNorm(config.size, config.eps)

    def forward(self, x: Tensor, rotation: Rotation, kept: CacheLayer, sees: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, kept, sees)
        y = self.post_attention_layernorm(x)
        gated = functional.silu(self.mlp["gate_proj"](y)) * self.mlp["up_proj"](y)
        made: Tensor = x + self.mlp["down_proj"](gated)
        return made


class DFlash(nn.Module):
    """The drafter's own weights, under their published names.

    layers_read: the core's, see `DFlashConfig`. depth: how many layers of a cache it fills.
    """

    def __init__(self, config: DFlashConfig) -> None:
        """Make an untrained drafter."""
        super().__init__()
        self.config, self.layers_read, self.depth = config, config.layers, config.depth
        self.fc = nn.Linear(len(config.layers) * config.size, config.size, bias=False)
        self.hidden_norm = nn.RMSNorm(config.size, config.eps)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.size, config.eps)

    def read(self, states: Tensor, positions: Tensor, kept: Sequence[CacheLayer]) -> None:
        """Keep what the blocks to come see of tokens: states (B, n, k H) at positions (B, n)."""
        context = self.hidden_norm(self.fc(states.to(self.fc.weight.dtype)))
        rotation = self._rotation(positions, context.dtype)
        for layer, own in zip(self.layers, kept, strict=True):
            own.update(*layer.self_attn.context(context, rotation))  # type: ignore[operator, union-attr]

    def forward(self, embedded: Tensor, positions: Tensor, kept: Sequence[CacheLayer], seen: Tensor) -> Tensor:
        """States from which the core's head predicts: (B, n, H) of blocks that see so many columns (B,) kept."""
        x, columns = embedded.to(self.fc.weight.dtype), torch.arange(int(seen.max()), device=seen.device)
        sees = functional.pad(columns < seen[:, None], (0, x.shape[1]), value=True)[:, None, None]
        rotation = self._rotation(positions, x.dtype)
        for layer, own in zip(self.layers, kept, strict=True):
            x = layer(x, rotation, own, sees)
        made: Tensor = self.norm(x)
        return made

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        rotary = Rotary.of(self.config.rotary, self.config.width)
        cos, sin = Rotary(rotary.frequencies.to(positions.device), rotary.factor)(positions, torch.float32)
        return cos.to(dtype), sin.to(dtype)


class DFlashBlocks:
    """A drafter at work on its core; see `BlockGuess`.

    size: the tokens of a block.
    """

    def __init__(self, network: DFlash, core: CausalCore) -> None:
        """From now on the core keeps for it what it reads."""
        self.size = network.config.block
        self._network, self._core = network, core
        core.follower = network

    def has_read(self, cache: PrefixCache) -> bool:
        """Whether what it reads was kept when the tokens of a cache were read."""
        return len(cache.layers) > self._core.layer_count

    def states(self, tokens: Tensor, positions: Tensor, cache: PrefixCache, seen: Tensor) -> Tensor:
        """What predicts each token of blocks (B, size) int64, -1 for hidden ones: (B, size, H).

        seen: (B,), how many columns of the cache stand before each block.
        """
        embedded = self._core.embed(tokens.masked_fill(tokens < 0, self._network.config.mask))
        made: Tensor = self._network(embedded, positions, cache.layers[self._core.layer_count :], seen)
        return made

    def log_p(self, states: Tensor) -> Tensor:
        """Log p by some of these states, through the core's head: (B, n, V) float32."""
        return torch.log_softmax(self._core.logits(states), dim=-1)


def _turned(x: Tensor, rotation: Rotation) -> Tensor:
    """Heads (B, n, heads, d), turned by their positions."""
    cos, sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def weights_of(config: DFlashConfig) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a drafter's tensors."""
    with torch.device("meta"):
        return {name: tuple(weight.shape) for name, weight in DFlash(config).state_dict().items()}


def parameters_of(config: DFlashConfig) -> int:
    """How many parameters a drafter has."""
    return sum(map(math.prod, weights_of(config).values()))
