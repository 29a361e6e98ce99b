"""A tiny DiffuLLaMA in its published format: a Llama 2 whose tokenizer names one of its ordinary tokens as the mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import (
    WORDS,
    Draw,
    llama_tensors,
    tokenizer,
    write_json,
    write_tokenizer,
    write_weights,
)

SPECIALS = ("<unk>", "<s>", "</s>")
BEGIN, END = WORDS + 1, WORDS + 2
MASK_TEXT = "Ġmask"
ROWS = END + 1

CONFIG: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0.dev0",
    "use_cache": True,
    "vocab_size": ROWS,
}


def mask_id() -> int:
    return tokenizer(SPECIALS).token_to_id(MASK_TEXT)


def write_diffullama(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, llama_tensors(Draw(seed), CONFIG))
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": False,
        "mask_token": MASK_TEXT,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": None,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder
