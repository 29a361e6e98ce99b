"""LLaDA-MoE (Zhu et al., 2025): a mixture of experts with full attention, in the layers of a Qwen3-MoE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, masked_spec, must, native, off
from ssdcli.models.families.family import Config, Family, Stack, Vocabulary

_BLOCK = 32
_MASK = 156895  # of the published checkpoints


def _native(config: Config) -> dict[str, Any]:
    must(config, "qk_layernorm", True)
    must(config, "moe_layer_freq", [1] * count(config, "num_hidden_layers"))
    off(config, "clip_qkv", "moe_router_enable_expert_bias", "shared_expert_intermediate_size")
    wide = count(config, "expert_intermediate_size")
    return native({**config, "intermediate_size": wide}, "qwen3_moe", "Qwen3MoeForCausalLM") | {
        "head_dim": count(config, "hidden_size") // count(config, "num_attention_heads"),
        "moe_intermediate_size": wide,
        "num_experts": count(config, "num_experts"),
        "num_experts_per_tok": count(config, "num_experts_per_tok"),
        "norm_topk_prob": False,  # its code never does, whatever config.json says
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "<|mask|>", known=_MASK)
    common = masked_spec(config, vocabulary, hidden, "full", _BLOCK)
    return replace(common, ends=ends(config, vocabulary, "<|role_end|>"), late_ends=vocabulary.chat)


_EXPERT = r"model\.layers\.(\d+)\.mlp\.experts\.(?P<n>\d+)\."

LLADA_MOE = Family(
    name="llada-moe",
    title="LLaDA-MoE",
    recognises=lambda config, _: is_a(config, "LLaDAMoEModel", "LLaDAMoEModelLM"),
    native=_native,
    spec=_spec,
    keys=(
        Stack(
            (_EXPERT + r"gate_proj\.weight", _EXPERT + r"up_proj\.weight"),
            r"model.layers.\1.mlp.experts.gate_up_proj",
        ),
        Stack((_EXPERT + r"down_proj\.weight",), r"model.layers.\1.mlp.experts.down_proj"),
    ),
)
