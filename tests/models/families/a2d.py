"""Tiny A2D models of dLLM in their published format: a Qwen3 that sees all of a text, or block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights
from tests.models.families.dream import TEMPLATE

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>")
END, TURN, MASK = WORDS, WORDS + 2, WORDS + 3
ROWS = 312

CONFIG: dict[str, Any] = {
    "architectures": ["A2DQwen3LMHeadModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "modeling_qwen3.A2DQwen3Config",
        "AutoModel": "modeling_qwen3.A2DQwen3LMHeadModel",
        "AutoModelForMaskedLM": "modeling_qwen3.A2DQwen3LMHeadModel",
    },
    "bos_token_id": END,
    "dtype": "bfloat16",
    "eos_token_id": TURN,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "layer_types": ["full_attention", "full_attention"],
    "max_position_embeddings": 256,
    "max_window_layers": 2,
    "model_type": "a2d-qwen3",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "transformers_version": "4.57.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}


def write_a2d(folder: Path, kind: str, seed: int = 0) -> Path:
    """Both kinds have the same files; the folder's name, which ends with the kind, tells them apart."""
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, llama_tensors(Draw(seed), CONFIG, norms=True))
    settings = {
        "bos_token": None,
        "chat_template": TEMPLATE,
        "eos_token": "<|im_end|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder
