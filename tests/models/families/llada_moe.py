"""A tiny LLaDA-MoE in its published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights
from tests.models.families.llada2 import TEMPLATE

SPECIALS = ("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mask|>", "<role>", "</role>", "<|role_end|>")
BEGIN, END, MASK, TURN = WORDS, WORDS + 1, WORDS + 4, WORDS + 7
ROWS, EXPERTS, WIDE = 320, 6, 16

CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAMoEModelLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_lladamoe.LLaDAMoEConfig",
        "AutoModel": "modeling_lladamoe.LLaDAMoEModelLM",
        "AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM",
    },
    "clip_qkv": None,
    "dense_intermediate_size": 64,
    "eos_token_id": END,
    "expert_intermediate_size": WIDE,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "max_position_embeddings": 256,
    "model_type": "llada",
    "moe_layer_freq": [1, 1],
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "norm_topk_prob": None,
    "num_attention_heads": 4,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "pad_token_id": END,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300,
    "routed_scaling_factor": 1,
    "router_aux_loss_coef": 0.01,
    "shared_expert_intermediate_size": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "vocab_size": ROWS,
}


def write_llada_moe(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, _tensors(Draw(seed)), shards=2)
    settings = {
        "bos_token": "<|startoftext|>",
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder


def _tensors(draw: Draw) -> dict[str, Tensor]:
    dense = llama_tensors(draw, {**CONFIG, "intermediate_size": WIDE}, norms=True)
    tensors = {name: tensor for name, tensor in dense.items() if ".mlp." not in name}
    for layer in (f"model.layers.{n}.mlp." for n in range(2)):
        tensors[f"{layer}gate.weight"] = 3 * draw.linear(EXPERTS, 32)
        for n in range(EXPERTS):
            tensors |= {f"{layer}experts.{n}.{part}_proj.weight": draw.linear(WIDE, 32) for part in ("gate", "up")}
            tensors[f"{layer}experts.{n}.down_proj.weight"] = draw.linear(32, WIDE)
    return tensors
