"""A small model initialised from a causal or masked language model: its body, its tables, its logit shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PreTrainedModel

from ssdcli.errors import SsdError, UsageError
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM, NativeBody
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.models.core_traits import resized
from ssdcli.models.families.config import count, is_a, must, native, off
from ssdcli.models.native_checkpoint import read_native

CAUSAL = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
MASKED = "RobertaForMaskedLM"

_CONTEXT = 512  # tokens, by default
_ROBERTA = ("type_vocab_size", "hidden_act", "layer_norm_eps")


@dataclass(frozen=True)
class Wanted:
    """What the small model must be to fit its core and process.

    vocabulary: V.
    suppressed: ids that are never text.
    block_size: in tokens.
    timed: whether the noise level is an input.
    self_conditioned: whether the previous prediction is an input.
    context: in tokens; None for the usual.
    shift: whether the token of position i is predicted at i - 1; None for what suits the checkpoint.
    hides: whether noise hides a token completely, as a mask does.
    """

    vocabulary: int
    suppressed: tuple[int, ...]
    block_size: int
    timed: bool
    self_conditioned: bool
    context: int | None = None
    shift: bool | None = None
    hides: bool = True


def initialize(folder: Path, wanted: Wanted, dtype: torch.dtype = torch.float32) -> BlockDiffusionLM:
    """A small model with a checkpoint's weights, in a dtype; what is new in it starts as zero and changes nothing.

    SsdError or UsageError for a checkpoint that is missing, of another class, or not in safetensors.
    """
    config = read_config(folder)
    own = _native(config)
    shift = _shifts(config, wanted) if wanted.shift is None else wanted.shift
    source = _source(folder, own, dtype)
    table, head = _tables(source)
    body = NativeBody(own, own_head=head is not table, shift=shift)
    return _assembled(source, _configuration(body, wanted, _room(config, body)))


def initialize_again(folder: Path, config: BackboneConfig, dtype: torch.dtype) -> BlockDiffusionLM:
    """The model that `initialize` made of a checkpoint before, by its stored configuration.

    SsdError for a checkpoint that cannot be read, or a configuration without a native body.
    """
    if config.native_body is None:
        raise SsdError(f"the configuration for {folder} names no native body.", "See 'ssd models verify'.")
    return _assembled(_source(folder, config.native_body.native, dtype), config)


def _source(folder: Path, own: Mapping[str, Any], dtype: torch.dtype) -> PreTrainedModel:
    return read_native(folder, native_class_of(own).model, own, {"dtype": dtype})


def _native(config: Mapping[str, Any]) -> dict[str, Any]:
    """The class's configuration without causality; UsageError for what a body here cannot do."""
    kinds = [kind for name, kind in CAUSAL.items() if is_a(config, name)]
    if kinds:
        if any(layer != "full_attention" for layer in config.get("layer_types") or ()):
            raise UsageError("some layers of the checkpoint have a sliding window.", "Name another for --init.")
        return native(config, kinds[0], config["architectures"][0])
    if is_a(config, MASKED):
        return _roberta(config)
    found = config.get("architectures")
    raise UsageError(
        f"the checkpoint's config.json has {found!r} as 'architectures', and cannot begin a model.",
        f"It may be one of {', '.join((*CAUSAL, MASKED))}.",
    )


def _roberta(config: Mapping[str, Any]) -> dict[str, Any]:
    off(config, "is_decoder", "add_cross_attention")
    must(config, "position_embedding_type", "absolute")
    must(config, "tie_word_embeddings", expected=True)
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    own = {key: count(config, key) for key in (*sizes, "max_position_embeddings")}
    own |= {key: config[key] for key in _ROBERTA if key in config}
    own["pad_token_id"] = config.get("pad_token_id", 1)
    return own | {"model_type": "roberta", "architectures": [MASKED]}


def _shifts(config: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether to shift: as a pulled core does; and for a causal model, where noise hides tokens completely.

    A token that shows through its noise does so at its own position, and is best predicted there (measured in
    docs/lab/beginnings.md).
    """
    return bool(config[KEY]["shift"]) if KEY in config else wanted.hides and is_a(config, *CAUSAL)


def _tables(source: Any) -> tuple[Tensor, Tensor]:
    """The embeddings (V, H) and what the head multiplies: the same, another (V, H), or (V, H + 1) with biases."""
    table, head = source.get_input_embeddings().weight, source.get_output_embeddings()
    if head.bias is None:
        return table, head.weight
    return table, torch.cat([head.weight, head.bias[:, None]], dim=1)


def _room(config: Mapping[str, Any], body: NativeBody) -> int:
    """How many tokens the body can read as it was trained to."""
    positions = int(body.native["max_position_embeddings"]) - body.first_position
    return min(positions, config.get("sliding_window") or positions)


def _configuration(body: NativeBody, wanted: Wanted, room: int) -> BackboneConfig:
    hidden, least = int(body.native["hidden_size"]), 2 * wanted.block_size
    context = min(wanted.context or _CONTEXT, room)
    if context < least:
        raise UsageError(
            f"a window of {context} tokens is too short for blocks of {wanted.block_size}.",
            f"The checkpoint must read at least {least}, and --context too.",
        )
    return BackboneConfig(
        vocabulary=wanted.vocabulary,
        hidden=hidden,
        layers=int(body.native["num_hidden_layers"]),
        rank=hidden,
        block_size=wanted.block_size,
        context=context,
        timed=wanted.timed,
        self_conditioned=wanted.self_conditioned,
        suppressed=wanted.suppressed,
        architecture=str(body.native["model_type"]),
        native_body=body,
    )


def _assembled(source: Any, config: BackboneConfig) -> BlockDiffusionLM:
    """A model that takes over another's weights, the body's without copying; its other parts start as zero."""
    with init_empty_weights():
        model = BlockDiffusionLM(config)
    table, head = (nn.Parameter(resized(table.detach(), config.vocabulary)) for table in _tables(source))
    model.table = table
    if model.head_table is not None:
        model.head_table = head
    body = source.base_model
    body.set_input_embeddings(None)
    model.body.load_state_dict(body.state_dict(), assign=True)
    if model.transform is not None:
        model.transform[0].load_state_dict(source.lm_head.dense.state_dict(), assign=True)
        model.transform[2].load_state_dict(source.lm_head.layer_norm.state_dict(), assign=True)
    for part in (model.time, model.self_conditioning):
        if part is not None:
            _zero_last_layer(part.to(table.dtype))
    return model


def _zero_last_layer(part: nn.Module) -> None:
    """Draw the weights of consecutive linear layers, except the last one's, which are zero."""
    layers = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        layer.to_empty(device="cpu").reset_parameters()
    for weight in layers[-1].parameters():
        nn.init.zeros_(weight)
