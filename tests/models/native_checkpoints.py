"""Tiny native models with random weights, their weights in files, and what transformers reads from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.family import Family, KeyRule

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, **SIZES}
QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True, **SIZES}
GLM4_MOE = {
    "model_type": "glm4_moe",
    "architectures": ["Glm4MoeForCausalLM"],
    "tie_word_embeddings": False,
    "use_qk_norm": True,
    "n_routed_experts": 11,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    **SIZES,
}
ROBERTA = {
    "model_type": "roberta",
    "architectures": ["SsdLmForDiffusion"],
    "tie_word_embeddings": True,
    **{key: SIZES[key] for key in SIZES if key not in ("num_key_value_heads", "head_dim")},
}


def family(native: Mapping[str, Any], keys: Sequence[KeyRule] = (), **pickles: str) -> Family:
    """An adapter with these rules, whose native configuration is always this one."""

    def spec(*_: object) -> CoreSpec:
        raise AssertionError("a conversion does not ask how the model is run")

    return Family(
        name="toy",
        title="Toy",
        recognises=lambda *_: True,
        native=lambda _: dict(native),
        spec=spec,
        keys=tuple(keys),
        pickles={f"{name}.pt": prefix for name, prefix in pickles.items()},
    )


def random_state(native: Mapping[str, Any], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Random weights under a class's native names, tied ones once."""
    model: Any = native_class_of(native).model(AutoConfig.for_model(**native))
    torch.manual_seed(0)
    names = [name for name in model.state_dict() if name not in model.all_tied_weights_keys]
    return {name: torch.randn(model.state_dict()[name].shape).to(dtype) for name in names}


def save_shards(state: Mapping[str, Tensor], folder: Path, count: int) -> list[Path]:
    """The tensors in so many files, neighbours in different ones."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for number, file in enumerate(files):
        save_file({name: state[name].clone() for name in list(state)[number::count]}, file)
    return files


def load(folder: Path, native: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights that transformers reads, in the precision they are stored in, and what it reports."""
    config = AutoConfig.for_model(**native)
    config.save_pretrained(folder)
    loaded: Any = native_class_of(native).model.from_pretrained(
        folder, config=config, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    model, report = loaded
    return model.state_dict(), {key: value for key, value in report.items() if value}
