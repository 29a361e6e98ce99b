"""What the header of a GGUF file says of a core, for a dry run: to translate all of it takes transformers."""

from __future__ import annotations

from typing import Any

from ssdcli.hub.gguf_config import own_ids
from ssdcli.hub.gguf_files import check
from ssdcli.models.families.causal import CAUSAL_CLASSES
from ssdcli.models.families.family import Vocabulary
from ssdcli.models.weights.gguf_header import GgufHeader

_TYPES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3_text"}  # by ggml's names
_SIZES = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
}
_ADDED = (3, 4)  # types of tokens: control, and defined by a user


def sketch(header: GgufHeader) -> tuple[dict[str, Any], Vocabulary] | None:
    """The sizes and ids of a configuration, and the vocabulary; None where the tensors are known to a class alone.

    SsdError for a file without a tokenizer, and for a damaged one as far as that can be seen.
    """
    model_type = _TYPES.get(header.architecture)
    if model_type is None:
        return None
    check(header)
    named = {key: header.number(f"{header.architecture}.{name}", 0) for name, key in _SIZES.items()}
    config: dict[str, Any] = {key: size for key, size in named.items() if size}
    config |= own_ids(header)
    config["model_type"] = model_type
    config["architectures"] = [entry.architecture for entry in CAUSAL_CLASSES if entry.model_type == model_type]
    config["tie_word_embeddings"] = "output.weight" not in header.tensors
    config["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    return config, _vocabulary(header)


def _vocabulary(header: GgufHeader) -> Vocabulary:
    tokens, types = (header.array(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    added = {str(token): id for id, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind in _ADDED}
    roles = {"begin": "bos", "end": "eos", "mask": "mask", "pad": "padding"}
    ids = {name: header.number(f"tokenizer.ggml.{role}_token_id", -1) for name, role in roles.items()}
    known = {name: id for name, id in ids.items() if 0 <= id < len(tokens)}
    return Vocabulary(len(tokens), added, **known, chat=header.text("tokenizer.chat_template") is not None)
