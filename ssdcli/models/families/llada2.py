"""LLaDA2.x (Bie et al., 2025): a mixture of experts that sees the blocks before a block and all of the block.

Layers are those of GLM-4.5. As in SDAR, the grid of blocks ends at the canvas.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.config import MaskedSpec, count, is_a, must, native, number, off, stacked_experts
from ssdcli.models.families.family import Config, Family, Rename, Split

_MASK = 156895  # of the published checkpoints


def _native(config: Config) -> dict[str, Any]:
    must(config, "score_function", "sigmoid")
    must(config, "norm_topk_prob", True)
    must(config, "use_qk_norm", True)
    must(config, "moe_router_enable_expert_bias", True)
    off(config, "use_qkv_bias", "use_bias", "norm_head")
    return native(config, "glm4_moe", "Glm4MoeForCausalLM") | {
        "head_dim": _head(config),
        "partial_rotary_factor": _rotated(config),
        "use_qk_norm": True,
        "norm_topk_prob": True,
        "num_experts_per_tok": count(config, "num_experts_per_tok"),
        "n_routed_experts": count(config, "num_experts"),
        "n_shared_experts": count(config, "num_shared_experts"),
        "moe_intermediate_size": count(config, "moe_intermediate_size"),
        "first_k_dense_replace": number(config, "first_k_dense_replace"),
        "n_group": count(config, "n_group"),
        "topk_group": count(config, "topk_group"),
        "routed_scaling_factor": number(config, "routed_scaling_factor"),
        "num_nextn_predict_layers": 0,
    }


def _head(config: Config) -> int:
    """The width of a head."""
    return int(config.get("head_dim") or count(config, "hidden_size") // count(config, "num_attention_heads"))


def _rotated(config: Config) -> float:
    """The share of a head that is rotated."""
    share = float(config.get("partial_rotary_factor", 0.5))
    must(config, "rotary_dim", int(_head(config) * share))
    return share


def _heads(config: Config) -> tuple[int, ...]:
    """The rows of a layer's queries, keys and values."""
    keys = _head(config) * count(config, "num_key_value_heads")
    return _head(config) * count(config, "num_attention_heads"), keys, keys


_LAYER = r"model\.layers\.(\d+)\."
_ATTENTION = r"model.layers.\1.self_attn."

LLADA2 = Family(
    name="llada2",
    title="LLaDA2.x",
    recognises=lambda config, _: is_a(config, "LLaDA2MoeModelLM"),
    native=_native,
    spec=MaskedSpec(masks=("<|mask|>",), known_mask=_MASK, attention="block-causal", ends=("<|role_end|>",)),
    keys=(
        Rename(r"model\.word_embeddings\.weight", "model.embed_tokens.weight"),
        Split(
            _LAYER + r"attention\.query_key_value\.weight",
            tuple(_ATTENTION + part + ".weight" for part in ("q_proj", "k_proj", "v_proj")),
            _heads,
        ),
        Rename(_LAYER + r"attention\.query_layernorm\.weight", _ATTENTION + "q_norm.weight"),
        Rename(_LAYER + r"attention\.key_layernorm\.weight", _ATTENTION + "k_norm.weight"),
        Rename(_LAYER + r"attention\.dense\.weight", _ATTENTION + "o_proj.weight"),
        Rename(_LAYER + r"mlp\.gate\.expert_bias", r"model.layers.\1.mlp.gate.e_score_correction_bias"),
        *stacked_experts(_LAYER + r"mlp\.experts\.(?P<n>\d+)\."),
    ),
)
