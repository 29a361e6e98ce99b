"""Tiny causal language models of each native class in their published format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdcli.models.weights.blueprint import blueprint
from tests.models.families.checkpoints import WORDS, Draw, write_json, write_tokenizer, write_weights

SPECIALS = ("<|endoftext|>", "<s>", "</s>")
END_OF_TEXT, BEGIN, END = WORDS, WORDS + 1, WORDS + 2
TOKENS = END + 1
ROWS = TOKENS + 5  # as in most checkpoints, the table has more rows than the tokenizer has tokens
WINDOW = 24  # of sliding layers
CONTEXT = 128

_LLAMA: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 300.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0",
    "use_cache": True,
    "vocab_size": ROWS,
}
_GEMMA = {
    "attention_bias": False,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "query_pre_attn_scalar": 12,
    "sliding_window": WINDOW,
    "tie_word_embeddings": True,
}
_SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT // 4}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": CONTEXT // 4,
}
_LONG = {"type": "longrope", "short_factor": [1.0, 1.3, 1.7, 2.0], "long_factor": [4.0, 5.0, 6.0, 7.0]}

# What a config.json of each class has beside or instead of a Llama's.
_OWN: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "rope_scaling": _LLAMA3, "mlp_bias": False},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": WINDOW},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], **_SLIDING},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 16, "rope_scaling": _YARN, "sliding_window": None},
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"],
        **_SLIDING,
        "no_rope_layers": [1, 0, 1, 0],
        "tie_word_embeddings": True,
        "pad_token_id": END_OF_TEXT,
    },
    "gemma": {
        **_GEMMA,
        "architectures": ["GemmaForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": None,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        **_GEMMA,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"],
        **_GEMMA,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_local_base_freq": 100.0,
        "sliding_window_pattern": 2,
    },
    "gemma3": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [END],
        "image_token_index": 7,
        "mm_tokens_per_image": 4,
        "vision_config": {
            "hidden_size": 16,
            "image_size": 32,
            "intermediate_size": 24,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 8,
        },
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "original_max_position_embeddings": 96,
        "rope_scaling": _LONG,
        "sliding_window": WINDOW,
        "pad_token_id": END_OF_TEXT,
    },
    "olmo2": {"architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "pad_token_id": END_OF_TEXT},
    "olmo3": {"architectures": ["Olmo3ForCausalLM"], "rope_scaling": _YARN, "sliding_window": WINDOW},
    "gpt_neox": {
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rotary_emb_base": 300,
        "rotary_pct": 0.5,
        "use_parallel_residual": True,
    },
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": END_OF_TEXT,
        "embd_pdrop": 0.1,
        "eos_token_id": END_OF_TEXT,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "n_ctx": CONTEXT,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 4,
        "n_positions": CONTEXT,
        "resid_pdrop": 0.1,
        "vocab_size": TOKENS,
    },
}
MODEL_TYPES = tuple(_OWN)


def config_of(model_type: str) -> dict[str, Any]:
    """The content of config.json."""
    if model_type == "gemma3":
        text = {**config_of("gemma3_text"), "num_hidden_layers": 3}
        left_out = ("architectures", "attention_dropout", "hidden_activation", "tie_word_embeddings", "rms_norm_eps")
        part = {key: value for key, value in text.items() if key not in left_out}
        return {**_OWN[model_type], "model_type": model_type, "text_config": part}
    shared = {} if model_type == "gpt2" else _LLAMA
    return {**shared, **_OWN[model_type], "model_type": model_type}


def write_causal(folder: Path, model_type: str, seed: int = 0) -> Path:
    config, end = config_of(model_type), END_OF_TEXT if model_type == "gpt2" else END
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": BEGIN, "eos_token_id": [end]})
    tensors = _tensors(config, Draw(seed))
    write_weights(folder, _as_published(model_type, tensors))
    settings = {"bos_token": "<s>", "eos_token": SPECIALS[end - WORDS], "tokenizer_class": "PreTrainedTokenizerFast"}
    write_tokenizer(folder, SPECIALS, settings)
    return folder


def _tensors(config: Mapping[str, Any], draw: Draw) -> dict[str, Tensor]:
    """Random tensors of the shapes and names that the native class has, without those that repeat another."""
    model = blueprint({key: value for key, value in config.items() if key != "transformers_version"})
    tied = model.all_tied_weights_keys
    return {
        name: _drawn(name, weight, draw, plus_one="gemma" in config["model_type"])
        for name, weight in model.named_parameters(remove_duplicate=False)
        if name not in tied
    }


def _drawn(name: str, weight: Tensor, draw: Draw, *, plus_one: bool) -> Tensor:
    if re.search(r"(embed_tokens|embed_in|wte|wpe)\.weight$", name):
        return draw.table(*weight.shape)
    if name.endswith(".bias"):
        return draw.bias(*weight.shape)
    if weight.ndim == 1:
        return draw.norm(*weight.shape) - int(plus_one)  # Gemma's norms multiply by one more than the weight
    return draw.linear(len(weight), weight[0].numel()).view(weight.shape)


def _as_published(model_type: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that the hub has, with the masks that each layer once stored."""
    mask = torch.ones(1, 1, CONTEXT, CONTEXT).tril()
    if model_type == "gpt2":
        masks = {f"h.{n}.attn.bias": mask.clone() for n in range(4)}
        return {name.removeprefix("transformer."): value for name, value in tensors.items()} | masks
    if model_type == "gemma3":
        named = {re.sub(r"^model\.language_model", "language_model.model", name): tensors[name] for name in tensors}
        return {re.sub(r"^model\.", "", name): value for name, value in named.items()}
    if model_type == "gpt_neox":
        masks = {f"gpt_neox.layers.{n}.attention.bias": mask.bool() for n in range(4)}
        return {re.sub("^lm_head", "embed_out", name): value for name, value in tensors.items()} | masks
    return tensors
