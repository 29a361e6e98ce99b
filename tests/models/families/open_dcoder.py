"""A tiny Open-dCoder in its published format: a Qwen2 whose tokenizer has a mask of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<M>")
END, MASK = WORDS, WORDS + 3
ROWS = 312

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen2.Qwen2ForCausalLM"},
    "bos_token_id": END,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}


def write_open_dcoder(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, llama_tensors(Draw(seed), CONFIG, biases=True))
    settings = {"eos_token": "<|endoftext|>", "mask_token": "<M>", "tokenizer_class": "Qwen2Tokenizer"}
    write_tokenizer(folder, SPECIALS, settings)
    return folder
