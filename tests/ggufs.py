"""Tiny causal language models in GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedModel

from ssdcli.models.backbones.native_class import native_class_of
from tests.tiny import VOCABULARY, tiny_tokenizer

HIDDEN, HEADS, LAYERS, CONTEXT = 64, 4, 2, 128
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
BEGIN, END, TURN_END = 0, 0, 2  # ids of <|endoftext|> and <|pad|> of the tiny tokenizer

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": None,
}
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "tie_word_embeddings": True}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 300.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": CONTEXT // 4,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 300.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "long_factor": [4.0, 5.0, 6.0, 7.0],
    "original_max_position_embeddings": CONTEXT // 2,
    "attention_factor": 1.25,
}
_YARN = {"rope_type": "yarn", "rope_theta": 300.0, "factor": 4.0, "original_max_position_embeddings": CONTEXT // 4}

# The configuration of each kind of file, by transformers' names.
KINDS: Mapping[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    "llama3": {"model_type": "llama", "rope_parameters": _LLAMA3, "tie_word_embeddings": True, "attention_bias": True},
    "qwen2": {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    "qwen3": {"model_type": "qwen3", "head_dim": 32, "rope_parameters": _YARN},
    "gemma2": {
        "model_type": "gemma2", **_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **_GEMMA,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        "num_hidden_layers": 6,
    },
    "phi3": {
        "model_type": "phi3",
        "rope_parameters": _LONG,
        "original_max_position_embeddings": CONTEXT // 2,
        "sliding_window": 24,
        "pad_token_id": 0,
    },
    "gpt2": {"model_type": "gpt2", "n_inner": 96},
}  # fmt: skip
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def original(kind: str) -> PreTrainedModel:
    """The model of a kind of file, its weights random and its predictions far from flat."""
    config = {**_SIZES, **KINDS[kind]}
    config["architectures"] = [_CLASSES[config["model_type"]]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = native_class_of(config).model(AutoConfig.for_model(**config)).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
    return model


def write_gguf(
    path: Path, kind: str, quantisation: str = "F32", *, name: str = "Tiny", pre: str = "gpt-2"
) -> PreTrainedModel:
    """Write a model, its matrices in a type of ggml's; returns it as it was before.

    name: what it calls itself. pre: how its tokenizer splits text.
    """
    model = original(kind)
    writer = GGUFWriter(path, _architecture(model))
    add_metadata(writer, model, name)
    add_tokenizer(writer, tiny_tokenizer(), pre=pre)
    for tensor, weight in gguf_tensors(model).items():
        add_tensor(writer, tensor, weight, quantisation if weight.ndim > 1 else "F32")
    finish(writer)
    return model


def finish(writer: GGUFWriter) -> None:
    """Write everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(writer: GGUFWriter, name: str, weight: np.ndarray, quantisation: str) -> None:
    """Add a tensor in a type of ggml's."""
    kind = GGMLQuantizationType[quantisation]
    writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)


def add_metadata(writer: GGUFWriter, model: PreTrainedModel, name: str = "Tiny") -> None:
    """Add what llama.cpp's converter writes of a configuration."""
    config: Any = model.config
    writer.add_name(name)
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_vocab_size(config.vocab_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _add_rotation(writer, config)
    if config.model_type in ("gemma2", "gemma3_text", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def _add_rotation(writer: GGUFWriter, config: Any) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(int(width * rope.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(rope["rope_theta"])
    if config.model_type != "phi3":
        writer.add_key_length(width)
        writer.add_value_length(width)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "longrope":
        writer.add_rope_scaling_attn_factors(rope["attention_factor"])


def add_tokenizer(
    writer: GGUFWriter,
    tokenizer: Tokenizer,
    names: Mapping[str, str] | None = None,
    pre: str = "gpt-2",
    *,
    opens: bool | None = False,
) -> None:
    """Add a byte-level BPE with a chat template.

    names: other ones for its special tokens. pre: how it splits text. opens: whether it puts <|endoftext|>
    before every text; None to leave that open.
    """
    vocabulary = {(names or {}).get(text, text): id for text, id in tokenizer.get_vocab().items()}
    tokens = sorted(vocabulary.items(), key=lambda item: item[1])
    special = {text for text, id in tokens if id in tokenizer.get_added_tokens_decoder()}
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([3 if text in special else 1 for text, _ in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(TURN_END)
    if opens is not None:
        writer.add_add_bos_token(opens)
    writer.add_chat_template(TEMPLATE)


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def gguf_tensors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """A model's weights by GGUF's names, changed as llama.cpp's converter changes them."""
    config: Any = model.config
    table = gguf.get_tensor_name_map(_arch(model), config.num_hidden_layers)
    found = {}
    for name, weight in model.state_dict().items():
        if name in model.all_tied_weights_keys:
            continue
        found[table.get_name(name, try_suffixes=(".weight", ".bias"))] = _changed(name, weight.numpy(), config)
    return found | _factors(model)


def _changed(name: str, weight: np.ndarray, config: Any) -> np.ndarray:
    heads = {"q_proj": config.num_attention_heads, "k_proj": getattr(config, "num_key_value_heads", None)}
    if config.model_type == "llama" and (part := name.split(".")[-2]) in heads:
        halves = weight.reshape(heads[part], 2, -1, *weight.shape[1:])
        return halves.swapaxes(1, 2).reshape(weight.shape).copy()
    if config.model_type.startswith("gemma") and name.endswith("norm.weight"):
        return weight + 1
    if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weight.T.copy()
    return weight


def _factors(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """The factors of the rotation, which llama.cpp has as tensors."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        named = {"rope_factors_short.weight": "short_factor", "rope_factors_long.weight": "long_factor"}
        return {name: np.array(rope[key], np.float32) for name, key in named.items()}
    if rope.get("rope_type") == "llama3":
        rotary: Any = model.base_model.rotary_emb
        width = 2 * len(rotary.inv_freq)
        plain = 1.0 / rope["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
        return {"rope_freqs.weight": (plain / rotary.inv_freq).numpy()}
    return {}


def _architecture(model: PreTrainedModel) -> str:
    return str(model.config.model_type).removesuffix("_text")


def _arch(model: PreTrainedModel) -> gguf.MODEL_ARCH:
    return next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == _architecture(model))
