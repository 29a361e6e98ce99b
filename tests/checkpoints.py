"""Tiny causal and masked language models in folders, as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoConfig

from ssdcli.models.backbones.native_class import native_class_of
from tests.models.native_checkpoints import LLAMA, QWEN2, ROBERTA
from tests.tiny import VOCABULARY, tiny_tokenizer

NATIVE: Mapping[str, Mapping[str, Any]] = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    "qwen2": QWEN2,
    "qwen3": {**QWEN2, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "roberta": {
        **ROBERTA,
        "architectures": ["RobertaForMaskedLM"],
        "max_position_embeddings": 130,
        "pad_token_id": 1,
    },
}
CAUSAL = ("llama", "mistral", "qwen2", "qwen3")


def write_checkpoint(
    folder: Path, kind: str = "qwen3", tokenizer: Tokenizer | None = None, shards: str = "1GB", **changes: Any
) -> Any:
    """Save a model of random weights, its predictions far from flat, and return it."""
    native = {**NATIVE[kind], "vocab_size": VOCABULARY, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = native_class_of(native).model(AutoConfig.for_model(**native)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder, max_shard_size=shards)
    (folder / "tokenizer.json").write_text((tokenizer or tiny_tokenizer()).to_str(), encoding="utf-8")
    return model
