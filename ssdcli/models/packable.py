"""The classes whose layers are packed for a CPU (see `backbones.packed_decoder`), told from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu")  # by transformers' names

NORM_OFFSETS = {  # what a norm adds to its weight, by class
    "LlamaForCausalLM": 0,
    "MistralForCausalLM": 0,
    "Qwen2ForCausalLM": 0,
    "Qwen3ForCausalLM": 0,
    "SmolLM3ForCausalLM": 0,
    "GemmaForCausalLM": 1,
    "Gemma3ForCausalLM": 1,
}


def is_packable(config: Mapping[str, Any]) -> bool:
    """Whether a native configuration is that of a class whose layers are packed, without what these lack."""
    named = config.get("architectures")
    unlike = config.get("attn_logit_softcapping") or config.get("use_bidirectional_attention")
    fits = isinstance(named, list) and bool(named) and named[0] in NORM_OFFSETS
    return fits and not unlike and _activation(config) in (None, *ACTIVATIONS)


def _activation(config: Mapping[str, Any]) -> Any:
    return config.get("hidden_activation") or config.get("hidden_act")
