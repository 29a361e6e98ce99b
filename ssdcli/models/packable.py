"""The classes whose layers are packed for a CPU (see `backbones.packed_decoder`), told from config.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACTIVATIONS = ("silu", "gelu_pytorch_tanh", "gelu")  # by transformers' names


_ATTENTION_BIAS, _MLP_BIAS = "attention_bias", "mlp_bias"


@dataclass(frozen=True)
class PackableClass:
    """What a class does beside the usual.

    norm_offset: what a norm adds to its weight.
    scales_embeddings: whether they are multiplied by the square root of their width.
    scale: the key of config.json for the number by whose root scores are divided; by default the width of a head.
    rotated: the key for the layers that turn queries and keys; by default all do.
    biased: whether queries, keys and values always have biases.
    biases: the keys that it reads of those that say which layers have biases.
    normed: whether each head's queries and keys are normalised.
    sandwiched: whether what a layer adds is normalised, too.
    tied: whether the head's weights are those of the embeddings, where config.json does not say.
    width: of a head, where it does not say; None for that of a layer over their number.
    """

    norm_offset: int = 0
    scales_embeddings: bool = False
    scale: str | None = None
    rotated: str | None = None
    biased: bool = False
    biases: tuple[str, ...] = (_ATTENTION_BIAS,)
    normed: bool = False
    sandwiched: bool = False
    tied: bool = False
    width: int | None = None


PACKABLE = {
    "LlamaForCausalLM": PackableClass(biases=(_ATTENTION_BIAS, _MLP_BIAS)),
    "MistralForCausalLM": PackableClass(biases=()),
    "Qwen2ForCausalLM": PackableClass(biased=True, biases=()),
    "Qwen3ForCausalLM": PackableClass(normed=True, width=128),
    "SmolLM3ForCausalLM": PackableClass(rotated="no_rope_layers", biases=(_ATTENTION_BIAS, _MLP_BIAS), tied=True),
    "GemmaForCausalLM": PackableClass(norm_offset=1, scales_embeddings=True, tied=True, width=256),
    "Gemma3ForCausalLM": PackableClass(
        norm_offset=1,
        scales_embeddings=True,
        scale="query_pre_attn_scalar",
        normed=True,
        sandwiched=True,
        tied=True,
        width=256,
    ),
}
ROTATIONS = ("default", "linear", "llama3", "yarn", "longrope")  # kinds of rotary embeddings, by transformers' names


def is_packable(config: Mapping[str, Any]) -> bool:
    """Whether a native configuration is that of a class whose layers are packed, without what these lack."""
    named = config.get("architectures")
    unlike = config.get("attn_logit_softcapping") or config.get("use_bidirectional_attention")
    fits = isinstance(named, list) and bool(named) and named[0] in PACKABLE and not unlike
    return fits and _activation(config) in (None, *ACTIVATIONS) and all(map(_is_fixed, _rotations(config)))


def width_of_head(config: Mapping[str, Any]) -> int:
    """The width of a head."""
    usual = PACKABLE[config["architectures"][0]].width or config["hidden_size"] // config["num_attention_heads"]
    return int(config.get("head_dim") or usual)


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all tensors of a packable model; KeyError for a size that the configuration lacks."""
    rows, size = config["vocab_size"], config["hidden_size"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, size), "model.norm.weight": (size,)}
    if not config.get("tie_word_embeddings", PACKABLE[config["architectures"][0]].tied):
        found["lm_head.weight"] = (rows, size)
    layer = {**_linears(config), **_norms(config)}
    for number in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    return found


def _linears(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The matrices and biases of a layer."""
    size, wide, width = config["hidden_size"], config["intermediate_size"], width_of_head(config)
    queries, keys = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    kind = PACKABLE[config["architectures"][0]]
    attends, feeds = (key in kind.biases and config.get(key, False) for key in (_ATTENTION_BIAS, _MLP_BIAS))
    linears = {
        "self_attn.q_proj": (queries, size, attends or kind.biased),
        "self_attn.k_proj": (keys, size, attends or kind.biased),
        "self_attn.v_proj": (keys, size, attends or kind.biased),
        "self_attn.o_proj": (size, queries, attends),
        "mlp.gate_proj": (wide, size, feeds),
        "mlp.up_proj": (wide, size, feeds),
        "mlp.down_proj": (size, wide, feeds),
    }
    found: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns, has_bias) in linears.items():
        found[f"{name}.weight"] = rows, columns
        if has_bias:
            found[f"{name}.bias"] = (rows,)
    return found


def _norms(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights of a layer's norms."""
    kind = PACKABLE[config["architectures"][0]]
    names = ["input_layernorm", "post_attention_layernorm"]
    if kind.sandwiched:
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    heads = ("self_attn.q_norm", "self_attn.k_norm") if kind.normed else ()
    size, width = config["hidden_size"], width_of_head(config)
    return {f"{name}.weight": (width if name in heads else size,) for name in (*names, *heads)}


def _activation(config: Mapping[str, Any]) -> Any:
    return config.get("hidden_activation") or config.get("hidden_act")


def _rotations(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The parameters of rotary embeddings that name a kind, for all layers or for each kind of layer."""
    told = config.get("rope_parameters") or config.get("rope_scaling") or {}
    tables = [told, *(table for table in told.values() if isinstance(table, Mapping))]
    return [table for table in tables if _rotation(table) is not None]


def _rotation(table: Mapping[str, Any]) -> Any:
    return table.get("rope_type", table.get("type"))


def _is_fixed(table: Mapping[str, Any]) -> bool:
    """Whether angles are those of the position alone, whatever the length of the text."""
    if _rotation(table) == "longrope":  # as of a GGUF that scales each frequency, for all texts alike
        same = table.get("short_factor") == table.get("long_factor") is not None
        return same and table.get("attention_factor") is not None
    return _rotation(table) in ROTATIONS
