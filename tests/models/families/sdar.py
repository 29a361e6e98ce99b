"""A tiny SDAR in its published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import (
    WORDS,
    Draw,
    llama_tensors,
    write_json,
    write_slow_tokenizer,
    write_weights,
)
from tests.models.families.dream import TEMPLATE

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<|MASK|>",
)
END, TURN, MASK = WORDS, WORDS + 2, WORDS + 7
ROWS = 312

CONFIG: dict[str, Any] = {
    "architectures": ["SDARForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "flex_attention",
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    "block_size": 4,
    "bos_token_id": END,
    "debug": False,
    "eos_token_id": END,
    "ep_size": 1,
    "fuse_cross_entropy": False,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "micro_forward": False,
    "model_type": "sdar",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300,
    "skip_checkpoint": False,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.52.4",
    "use_cache": False,
    "use_deepep": False,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}


def write_sdar(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"eos_token_id": [TURN, END], "pad_token_id": END})
    write_weights(folder, llama_tensors(Draw(seed), CONFIG, norms=True))
    settings = {
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "mask_token": "<|MASK|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_slow_tokenizer(folder, SPECIALS, settings)
    return folder
