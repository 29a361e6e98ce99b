"""A tiny LLaDA2.x in its published format: two shards, one tensor for each expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, write_json, write_tokenizer, write_weights

SPECIALS = ("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mask|>", "<role>", "</role>", "<|role_end|>")
BEGIN, END, MASK, TURN = WORDS, WORDS + 1, WORDS + 4, WORDS + 7
ROWS = 312

CONFIG: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "dtype": "bfloat16",
    "embedding_dropout": 0.0,
    "first_k_dense_replace": 1,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 40,
    "max_position_embeddings": 512,
    "max_window_layers": 28,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 16,
    "moe_router_enable_expert_bias": True,
    "n_group": 4,
    "norm_head": False,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "output_router_logits": False,
    "pad_token_id": END,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300,
    "rotary_dim": 6,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "topk_group": 2,
    "transformers_version": "4.57.1",
    "use_bias": False,
    "use_cache": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}
TEMPLATE = (
    "<role>SYSTEM</role>detailed thinking off<|role_end|>{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set role = 'HUMAN' %}{% else %}{% set role = message['role'] | upper %}"
    "{% endif %}{{ '<role>' + role + '</role>' + message['content'] + '<|role_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)


def write_llada2(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, _tensors(Draw(seed)), shards=2)
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<|startoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "eos_token": "<|endoftext|>",
        "fast_tokenizer": True,
        "gmask_token": "[gMASK]",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder


def _tensors(draw: Draw) -> dict[str, Tensor]:
    width, head = CONFIG["hidden_size"], CONFIG["head_dim"]
    heads, keys = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    tensors = {"model.word_embeddings.weight": draw.table(ROWS, width)}
    for n in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        tensors |= {
            f"{layer}input_layernorm.weight": draw.norm(width),
            f"{layer}attention.query_key_value.weight": draw.linear((heads + 2 * keys) * head, width),
            f"{layer}attention.query_layernorm.weight": draw.norm(head),
            f"{layer}attention.key_layernorm.weight": draw.norm(head),
            f"{layer}attention.dense.weight": draw.linear(width, heads * head),
            f"{layer}post_attention_layernorm.weight": draw.norm(width),
        }
        dense = n < CONFIG["first_k_dense_replace"]
        tensors |= (
            _network(draw, f"{layer}mlp.", CONFIG["intermediate_size"]) if dense else _experts(draw, f"{layer}mlp.")
        )
    return tensors | {"model.norm.weight": draw.norm(width), "lm_head.weight": draw.linear(ROWS, width)}


def _experts(draw: Draw, prefix: str) -> dict[str, Tensor]:
    tensors = {
        f"{prefix}gate.weight": 3 * draw.linear(CONFIG["num_experts"], CONFIG["hidden_size"]),
        f"{prefix}gate.expert_bias": draw.bias(CONFIG["num_experts"]),
    }
    for n in range(CONFIG["num_experts"]):
        tensors |= _network(draw, f"{prefix}experts.{n}.", CONFIG["moe_intermediate_size"])
    return tensors | _network(draw, f"{prefix}shared_experts.", CONFIG["moe_intermediate_size"])


def _network(draw: Draw, prefix: str, inner: int) -> dict[str, Tensor]:
    width = CONFIG["hidden_size"]
    return {
        f"{prefix}gate_proj.weight": draw.linear(inner, width),
        f"{prefix}up_proj.weight": draw.linear(inner, width),
        f"{prefix}down_proj.weight": draw.linear(width, inner),
    }
