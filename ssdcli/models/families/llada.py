"""LLaDA (Nie et al., 2025): a Llama with full attention whose tensors have names of their own."""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.config import MaskedSpec, count, is_a, must, number, off, rows
from ssdcli.models.families.family import Config, Family, Rename


def _native(config: Config) -> dict[str, Any]:
    must(config, "block_type", "llama")
    must(config, "block_group_size", 1)
    must(config, "activation_type", "silu")
    must(config, "layer_norm_type", "rms")
    must(config, "layer_norm_with_affine", True)
    must(config, "rope", True)
    off(config, "include_bias", "include_qkv_bias", "bias_for_layer_norm", "attention_layer_norm", "input_emb_norm")
    off(config, "alibi", "scale_logits", "clip_qkv", "multi_query_attention")
    heads = count(config, "n_heads")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "is_causal": False,
        "vocab_size": rows(config),
        "hidden_size": count(config, "d_model"),
        "intermediate_size": count(config, "mlp_hidden_size"),
        "num_hidden_layers": count(config, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "max_position_embeddings": count(config, "max_sequence_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": number(config, "rope_theta")},
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "tie_word_embeddings": config.get("weight_tying", False),
    }


_LAYER = r"model\.transformer\.blocks\.(\d+)\."

LLADA = Family(
    name="llada",
    title="LLaDA",
    recognises=lambda config, _: is_a(config, "LLaDAModelLM"),
    native=_native,
    spec=MaskedSpec(masks=("<|mdm_mask|>",), window="max_sequence_length", ends=("<|eot_id|>",), padded=True),
    keys=(
        Rename(r"model\.transformer\.wte\.weight", "model.embed_tokens.weight"),
        Rename(r"model\.transformer\.ln_f\.weight", "model.norm.weight"),
        Rename(r"model\.transformer\.ff_out\.weight", "lm_head.weight"),
        Rename(_LAYER + r"attn_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
        Rename(_LAYER + r"ff_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
        Rename(_LAYER + r"([qkv]_proj)\.weight", r"model.layers.\1.self_attn.\2.weight"),
        Rename(_LAYER + r"attn_out\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
        Rename(_LAYER + r"ff_proj\.weight", r"model.layers.\1.mlp.gate_proj.weight"),
        Rename(_LAYER + r"up_proj\.weight", r"model.layers.\1.mlp.up_proj.weight"),
        Rename(_LAYER + r"ff_out\.weight", r"model.layers.\1.mlp.down_proj.weight"),
    ),
)
