"""A tiny DFlash drafter in the published format, and the published computation of its drafts in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.models.families.checkpoints import Draw, read_weights, write_json, write_weights
from tests.models.native_checkpoints import LLAMA
from tests.tiny import VOCABULARY

DEPTH = 6  # of the core
READ = (1, 2, 4)  # the core's layers, counted as they are published
BLOCK, MASK = 5, 299
CORE = {**LLAMA, "num_hidden_layers": DEPTH}
CONFIG: dict[str, Any] = {
    "architectures": ["DFlashDraftModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
    "block_size": BLOCK,
    "dflash_config": {"mask_token_id": MASK, "target_layer_ids": list(READ)},
    "dtype": "bfloat16",
    "head_dim": 6,
    "hidden_act": "silu",
    "hidden_size": CORE["hidden_size"],
    "intermediate_size": 40,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 40960,
    "model_type": "qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "num_target_layers": DEPTH,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 100.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": VOCABULARY,
}


def write_dflash(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A repository as it is published; changes: to its config.json."""
    config = {**CONFIG, **changes}
    write_json(folder / "config.json", config)
    (folder / "dflash.py").write_text("raise SystemExit('code of a repository was run')\n")
    draw, size, wide, head = Draw(seed), CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    tensors = {"fc.weight": draw.linear(size, len(READ) * size), "hidden_norm.weight": draw.norm(size)}
    for n in range(CONFIG["num_hidden_layers"]):
        own = {
            "input_layernorm": draw.norm(size),
            "post_attention_layernorm": draw.norm(size),
            "self_attn.q_proj": draw.linear(4 * head, size),
            "self_attn.k_proj": draw.linear(2 * head, size),
            "self_attn.v_proj": draw.linear(2 * head, size),
            "self_attn.o_proj": draw.linear(size, 4 * head),
            "self_attn.q_norm": draw.norm(head),
            "self_attn.k_norm": draw.norm(head),
            "mlp.gate_proj": draw.linear(wide, size),
            "mlp.up_proj": draw.linear(wide, size),
            "mlp.down_proj": draw.linear(size, wide),
        }
        tensors |= {f"layers.{n}.{name}.weight": weight for name, weight in own.items()}
    write_weights(folder, {**tensors, "norm.weight": draw.norm(size)})
    return folder


def drafted(folder: Path, model: Any, text: Sequence[int], known: int = 1) -> Tensor:
    """Log p (BLOCK - known, V) of what follows a text, of which so many tokens begin the block, by a model in float64.

    Written from the authors' code, and sharing none with the drafter.
    """
    weights, start = read_weights(folder), len(text) - known
    block = torch.tensor([*text[start:], *[MASK] * (BLOCK - known)])
    states = model(torch.tensor([list(text)]), output_hidden_states=True).hidden_states
    fused = torch.cat([states[layer + 1][0, :start] for layer in READ], dim=-1) @ weights["fc.weight"].T
    context = _norm(fused, weights["hidden_norm.weight"])
    x = model.get_input_embeddings().weight[block]
    for n in range(CONFIG["num_hidden_layers"]):
        own = {name.removeprefix(f"layers.{n}."): weight for name, weight in weights.items() if f"layers.{n}." in name}
        x = x + _attention(_norm(x, own["input_layernorm.weight"]), context, own, start)
        y = _norm(x, own["post_attention_layernorm.weight"])
        gate = y @ own["mlp.gate_proj.weight"].T
        x = x + (gate * gate.sigmoid() * (y @ own["mlp.up_proj.weight"].T)) @ own["mlp.down_proj.weight"].T
    head: Callable[[Tensor], Tensor] = model.get_output_embeddings()
    return head(_norm(x, weights["norm.weight"]))[known:]


def _attention(x: Tensor, context: Tensor, own: Mapping[str, Tensor], start: int) -> Tensor:
    """Each query of the block sees the context and the whole block."""
    heads, groups, head = 4, 2, CONFIG["head_dim"]
    both = torch.cat([context, x])
    queries = _norm((x @ own["self_attn.q_proj.weight"].T).view(-1, heads, head), own["self_attn.q_norm.weight"])
    keys = _norm((both @ own["self_attn.k_proj.weight"].T).view(-1, groups, head), own["self_attn.k_norm.weight"])
    values = (both @ own["self_attn.v_proj.weight"].T).view(-1, groups, head)
    queries, keys = _rotated(queries, start), _rotated(keys, 0)
    out = []
    for number in range(heads):
        group = number * groups // heads
        scores = queries[:, number] @ keys[:, group].T / head**0.5
        out.append(scores.softmax(-1) @ values[:, group])
    return torch.cat(out, dim=-1) @ own["self_attn.o_proj.weight"].T


def _rotated(x: Tensor, start: int) -> Tensor:
    """Heads (n, heads, d) whose halves are the two parts of complex numbers, turned by their positions."""
    half = x.shape[-1] // 2
    angles = torch.arange(start, start + len(x)).double()[:, None] * 100.0 ** (-torch.arange(half).double() / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
