"""A tiny Fast-dLLM v2 in its published format: tied, and its mask is named by the tokenizer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights
from tests.models.families.dream import TEMPLATE

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>", "|<MASK>|")
END, TURN, MASK = WORDS, WORDS + 2, WORDS + 4
ROWS, BLOCK = 312, 32

CONFIG: dict[str, Any] = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration.Fast_dLLM_QwenConfig",
        "AutoModel": "modeling.Fast_dLLM_QwenModel",
        "AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM",
    },
    "bd_size": BLOCK,
    "bos_token_id": END,
    "eos_token_id": TURN,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 512,
    "max_window_layers": 21,
    "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.53.1",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}


def write_fast_dllm(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": END, "eos_token_id": [TURN, END]})
    write_weights(folder, llama_tensors(Draw(seed), CONFIG, biases=True))
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder
