"""LLaDA-MoE (Zhu et al., 2025): a mixture of experts with full attention, in the layers of a Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.config import MaskedSpec, count, is_a, must, native, off, stacked_experts
from ssdcli.models.families.family import Config, Family

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


LLADA_MOE = Family(
    name="llada-moe",
    title="LLaDA-MoE",
    recognises=lambda config, _: is_a(config, "LLaDAMoEModel", "LLaDAMoEModelLM"),
    native=_native,
    spec=MaskedSpec(masks=("<|mask|>",), known_mask=_MASK, ends=("<|role_end|>",), padded=True),
    keys=stacked_experts(r"model\.layers\.(\d+)\.mlp\.experts\.(?P<n>\d+)\."),
)
