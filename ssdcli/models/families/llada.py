"""LLaDA (Nie et al., 2025): a Llama with full attention, under names of its own."""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.facts import ends, must, never_text, number, prompt_format
from ssdcli.models.family import Config, Family, Rename, Vocabulary
from ssdcli.models.spec import CoreSpec

_BLOCK = 32  # of its published semi-autoregressive decoding


def _native(config: Config) -> dict[str, Any]:
    must(config, "block_type", "llama")
    must(config, "activation_type", "silu")
    must(config, "layer_norm_type", "rms")
    must(config, "include_bias", False)
    heads = number(config, "n_heads")
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "is_causal": False,
        "vocab_size": config.get("embedding_size") or number(config, "vocab_size"),
        "hidden_size": number(config, "d_model"),
        "intermediate_size": number(config, "mlp_hidden_size"),
        "num_hidden_layers": number(config, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": config.get("n_kv_heads") or heads,
        "max_position_embeddings": number(config, "max_sequence_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": number(config, "rope_theta")},
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "attention_bias": config.get("include_qkv_bias", False),
        "tie_word_embeddings": config.get("weight_tying", False),
    }


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    mask = number(config, "mask_token_id")
    return CoreSpec(
        family="llada",
        process="masked",
        constants={"mask_id": mask},
        attention="full",
        block_size=_BLOCK,
        context=number(config, "max_sequence_length"),
        begin=vocabulary.begin,
        ends=ends(config, vocabulary, "<|eot_id|>"),
        suppressed=never_text(vocabulary, number(config, "vocab_size"), mask),
        late_ends=vocabulary.chat,  # the answers that it learned from were padded with ends of text
        format=prompt_format(vocabulary),
    )


_LAYER = r"model\.transformer\.blocks\.(\d+)\."

LLADA = Family(
    name="llada",
    title="LLaDA",
    recognises=lambda config, _: config.get("model_type") == "llada",
    native=_native,
    spec=_spec,
    keys=(
        Rename(r"model\.transformer\.wte\.weight", "model.embed_tokens.weight"),
        Rename(r"model\.transformer\.ln_f\.weight", "model.norm.weight"),
        Rename(r"model\.transformer\.ff_out\.weight", "lm_head.weight"),
        Rename(_LAYER + r"attn_norm\.weight", r"model.layers.\1.input_layernorm.weight"),
        Rename(_LAYER + r"ff_norm\.weight", r"model.layers.\1.post_attention_layernorm.weight"),
        Rename(_LAYER + r"([qkv]_proj)\.(weight|bias)", r"model.layers.\1.self_attn.\2.\3"),
        Rename(_LAYER + r"attn_out\.weight", r"model.layers.\1.self_attn.o_proj.weight"),
        Rename(_LAYER + r"ff_proj\.weight", r"model.layers.\1.mlp.gate_proj.weight"),
        Rename(_LAYER + r"up_proj\.weight", r"model.layers.\1.mlp.up_proj.weight"),
        Rename(_LAYER + r"ff_out\.weight", r"model.layers.\1.mlp.down_proj.weight"),
    ),
)
