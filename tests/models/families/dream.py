"""A tiny Dream in its published format: two shards, and a tokenizer that is saved as slow ones are."""

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

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
END, TURN, BEGIN, MASK = WORDS, WORDS + 2, WORDS + 3, WORDS + 4
ROWS = 320

CONFIG: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": END,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 131072,
    "max_window_layers": 2,
    "model_type": "Dream",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": END,
    "rms_norm_eps": 1e-3,
    "rope_scaling": None,
    "rope_theta": 300.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": ROWS,
}
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_dream(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, llama_tensors(Draw(seed), CONFIG, biases=True), shards=2)
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": ["<|beginoftext|>", "<|mask|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "chat_template": TEMPLATE,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "mask_token": "<|mask|>",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    write_slow_tokenizer(folder, SPECIALS, settings)
    return folder
