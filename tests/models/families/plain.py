"""The published forward pass of Llama-like models, written out for one sequence, in float64.

Nothing here goes through ssdcli or transformers: a test gives the tensors of a checkpoint as its authors name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """heads, keys: of queries, and of keys and values. head: numbers of one. rotated: of these, how many turn.

    frequencies: by which each pair turns, (rotated / 2,), where they are not the usual powers of theta.
    """

    heads: int
    keys: int
    head: int
    theta: float
    eps: float
    rotated: int
    frequencies: Tensor | None = None


def body(x: Tensor, layers: Sequence[Mapping[str, Any]], shape: Shape, sees: Tensor) -> Tensor:
    """Hidden states (T, H) before the last norm, of embeddings (T, H); sees: (T, T) bool, who sees whom.

    A layer is a table of `norm`, `q`, `k`, `v`, `o`, `norm 2`, `mlp` (a function), and maybe of `q bias`, `k bias`,
    `v bias`, `q norm` and `k norm`.
    """
    for layer in layers:
        x = x + _attention(rms_norm(x, layer["norm"], shape.eps), layer, shape, sees)
        x = x + layer["mlp"](rms_norm(x, layer["norm 2"], shape.eps))
    return x


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def gated(gate: Tensor, up: Tensor, down: Tensor) -> Callable[[Tensor], Tensor]:
    """The usual feed-forward network."""

    def network(x: Tensor) -> Tensor:
        turned = x @ gate.T
        return (turned * torch.sigmoid(turned) * (x @ up.T)) @ down.T

    return network


def _attention(x: Tensor, layer: Mapping[str, Any], shape: Shape, sees: Tensor) -> Tensor:
    queries = _heads(x, layer, "q", shape.heads, shape)
    keys = _heads(x, layer, "k", shape.keys, shape).repeat_interleave(shape.heads // shape.keys, dim=0)
    values = _heads(x, layer, "v", shape.keys, shape).repeat_interleave(shape.heads // shape.keys, dim=0)
    scores = queries @ keys.transpose(1, 2) / shape.head**0.5
    mixed = scores.masked_fill(~sees, float("-inf")).softmax(-1) @ values
    return mixed.transpose(0, 1).flatten(1) @ layer["o"].T


def _heads(x: Tensor, layer: Mapping[str, Any], kind: str, count: int, shape: Shape) -> Tensor:
    """Queries, keys or values: (count, T, head)."""
    projected = x @ layer[kind].T + layer.get(f"{kind} bias", 0)
    heads = projected.unflatten(-1, (count, shape.head)).transpose(0, 1)
    if f"{kind} norm" in layer:
        heads = rms_norm(heads, layer[f"{kind} norm"], shape.eps)
    return heads if kind == "v" else _rotate(heads, shape)


def _rotate(heads: Tensor, shape: Shape) -> Tensor:
    """Turn the pair of numbers i and i + half by position / theta^(i / half) (RoPE, Su et al., 2021)."""
    half = shape.rotated // 2
    usual = shape.theta ** -(torch.arange(half).double() / half)
    angles = torch.arange(heads.shape[1]).double()[:, None] * (
        usual if shape.frequencies is None else shape.frequencies
    )
    first, second, rest = heads.split([half, half, shape.head - 2 * half], dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def log_p(hidden: Tensor, head: Tensor, never: Sequence[int]) -> Tensor:
    """Log p (T, V) of normed hidden states (T, H), without the ids that are never text."""
    scores = hidden @ head.T
    scores[:, list(never)] = float("-inf")
    return scores.log_softmax(-1)


def shifted(hidden: Tensor) -> Tensor:
    """Hidden states (T, H) where position i is predicted at i - 1, and the first at itself."""
    return torch.cat([hidden[:1], hidden[:-1]])


def everything(length: int) -> Tensor:
    """Full attention: (T, T) bool."""
    return torch.ones(length, length, dtype=torch.bool)


def block_causal(length: int, size: int, start: int) -> Tensor:
    """Blocks see themselves and those before, on a grid of which one block begins at `start`: (T, T) bool."""
    blocks = torch.div(torch.arange(length) - start, size, rounding_mode="floor")
    return blocks[None, :] <= blocks[:, None]


def llama_layers(weights: Mapping[str, Tensor], count: int) -> list[dict[str, Any]]:
    """The layers of a checkpoint under Llama's names, with biases, and norms of queries and keys, where it has them."""
    return [_llama_layer(weights, f"model.layers.{n}.") for n in range(count)]


def _llama_layer(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    names = {f"{kind}": f"self_attn.{kind}_proj.weight" for kind in "qkvo"}
    names |= {f"{kind} bias": f"self_attn.{kind}_proj.bias" for kind in "qkv"}
    names |= {f"{kind} norm": f"self_attn.{kind}_norm.weight" for kind in "qk"}
    names |= {"norm": "input_layernorm.weight", "norm 2": "post_attention_layernorm.weight"}
    layer: dict[str, Any] = {key: weights[prefix + name] for key, name in names.items() if prefix + name in weights}
    return layer | {"mlp": gated(*(weights[f"{prefix}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))}
