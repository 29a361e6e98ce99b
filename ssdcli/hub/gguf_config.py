"""A native class's configuration from the metadata of a GGUF file: what transformers reads, and what it leaves out.

transformers reads sizes and ids, and ignores what most files lack: RoPE scaling, soft-capping of logits, sliding
windows, and heads whose width is not that of a layer over their number. Without them it would be a different model, so
they are added here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.weights.gguf_header import GgufHeader, GgufTensor, type_name

ReadTensor = Callable[[GgufTensor], bytes]

FACTORS, SHORT_FACTORS, LONG_FACTORS = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
_TABLE, _PLACES = "token_embd.weight", "position_embd.weight"
_ROLES = {"bos_token_id": "bos", "pad_token_id": "padding"}
_ENDS = ("eos", "eot", "eom")  # of a text, of a turn, and of a message to a tool
_MOST_FACTORS = 4096
_BY_WIDTH = (("gemma2", 46), ("gemma3", 62))  # those of 27 billion parameters scale queries by another width
_OTHER = "Pull the repository that this file was made from."

_Config = dict[str, Any]


def completed(config: Mapping[str, Any], header: GgufHeader, read: ReadTensor) -> _Config:
    """Complete the configuration that transformers read from a GGUF file; SsdError for what cannot be determined.

    read: reads the bytes of a tensor.
    """
    found = {**config, **own_ids(header)}  # the class's own are those of another vocabulary
    for add in (_add_sizes, _add_attention, _add_rotation):
        found |= add(found, header, read)
    return found


def own_ids(header: GgufHeader) -> _Config:
    """The ids of special tokens and the rows of the table, by the names of a configuration."""
    ends = [id for id in (_id(header, role) for role in _ENDS) if id is not None]
    ids = {key: _id(header, role) for key, role in _ROLES.items()}
    return {**ids, "eos_token_id": list(dict.fromkeys(ends)), "vocab_size": header.tensors[_TABLE].shape[0]}


def _id(header: GgufHeader, role: str) -> int | None:
    """The id of a special token."""
    found = header.number(f"tokenizer.ggml.{role}_token_id", -1)
    return found if 0 <= found < header.tensors[_TABLE].shape[0] else None


def _add_sizes(config: _Config, header: GgufHeader, _: ReadTensor) -> _Config:
    """The width of a head, where it is not that of a layer over their number; sizes that GPT-2 names its own way."""
    found: _Config = {}
    width = header.number(_key(header, "attention.key_length"), 0)
    if width and "head_dim" in config:
        found["head_dim"] = width
    if "attention_bias" in config:
        found["attention_bias"] = "blk.0.attn_q.bias" in header.tensors
    if header.architecture == "gpt2" and _PLACES in header.tensors:
        found["n_positions"] = header.tensors[_PLACES].shape[0]
        found["n_inner"] = header.number(_key(header, "feed_forward_length"), 4 * config["n_embd"])
    return found


def _add_attention(config: _Config, header: GgufHeader, _: ReadTensor) -> _Config:
    """Sliding windows, soft-capping of logits, and the width that queries are scaled by."""
    found: _Config = {}
    window = header.number(_key(header, "attention.sliding_window"), 0)
    if window and "sliding_window" in config:
        found["sliding_window"] = window
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        cap = header.real(_key(header, key))
        if cap is not None and key in config:
            found[key] = cap
    if "query_pre_attn_scalar" in config:
        wide = (header.architecture, config["num_hidden_layers"]) in _BY_WIDTH
        found["query_pre_attn_scalar"] = (
            config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"]
        )
    return found


def _add_rotation(config: _Config, header: GgufHeader, read: ReadTensor) -> _Config:
    """How the rotary embedding (RoPE) is scaled."""
    scaling = {**_scaling(config, header), **_factors(config, header, read)}
    rotated = header.number(_key(header, "rope.dimension_count"), 0)
    if header.architecture == "phi3" and rotated:
        width = config["hidden_size"] // config["num_attention_heads"]
        scaling["partial_rotary_factor"] = rotated / width
    if not scaling:
        return {}
    original = scaling.get("original_max_position_embeddings")
    known = config["rope_parameters"]
    if "full_attention" in known:  # only layers that see everything are scaled
        return {"rope_parameters": {**known, "full_attention": {**known["full_attention"], **scaling}}}
    top = {"original_max_position_embeddings"} & config.keys() if original else set()
    return {"rope_parameters": {**known, **scaling}} | dict.fromkeys(top, original)


def _scaling(config: _Config, header: GgufHeader) -> _Config:
    """The RoPE scaling that the metadata name."""
    kind = header.text(_key(header, "rope.scaling.type")) or "none"
    factor = header.real(_key(header, "rope.scaling.factor"))
    if kind in ("none", "longrope") or factor in (None, 0.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {"rope_type": "yarn", "factor": factor, **_original(config, header)}
    raise SsdError(f"{header.name} scales its rotary embedding in a way that ssd does not know ({kind!r}).", _OTHER)


def _factors(config: _Config, header: GgufHeader, read: ReadTensor) -> _Config:
    """RoPE scaling by factors of the frequencies, stored as tensors: one for all texts, or another for long ones."""
    if FACTORS in header.tensors:
        factors = _numbers(header, FACTORS, read)
        everywhere = {"original_max_position_embeddings": config["max_position_embeddings"]}
        unscaled = {"factor": 1.0, "attention_factor": 1.0}
        return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, **everywhere, **unscaled}
    if SHORT_FACTORS in header.tensors and LONG_FACTORS in header.tensors:
        short, long = _numbers(header, SHORT_FACTORS, read), _numbers(header, LONG_FACTORS, read)
        stated = header.real(_key(header, "rope.scaling.attn_factor"))
        original = _original(config, header)
        factor = config["max_position_embeddings"] / original["original_max_position_embeddings"]
        attention = {} if stated is None else {"attention_factor": stated}
        found = {"rope_type": "longrope", "short_factor": short, "long_factor": long, "factor": factor}
        return {**found, **attention, **original}
    return {}


def _original(config: _Config, header: GgufHeader) -> _Config:
    """The context before it was extended."""
    context = config["max_position_embeddings"]
    original = header.number(_key(header, "rope.scaling.original_context_length"), context)
    return {"original_max_position_embeddings": original}


def _numbers(header: GgufHeader, name: str, read: ReadTensor) -> list[float]:
    """The numbers of a small tensor in float32."""
    tensor = header.tensors[name]
    if type_name(tensor.kind) != "F32" or tensor.elements > _MOST_FACTORS:
        raise SsdError(f"{header.name} is damaged: {name!r} does not hold factors of a rotary embedding.", _OTHER)
    return list(struct.unpack(f"<{tensor.elements}f", read(tensor)))


def _key(header: GgufHeader, name: str) -> str:
    return f"{header.architecture}.{name}"
