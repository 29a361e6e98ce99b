"""A pulled core in a folder: a checkpoint of a native class, and in its config.json how it is run."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from ssdcli.machine.hardware import look
from ssdcli.machine.placement import Allocation, Need
from ssdcli.models.auto_model import quiet
from ssdcli.models.backbones.native import NativeBackbone
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.core_config import UNREADABLE, native_part, read_config, unreadable
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.weights.blueprint import blueprint
from ssdcli.models.weights.pretrained import arguments, keep_activations
from ssdcli.models.weights.stored import stored_dtype
from ssdcli.registry.manifest import INDEX, WEIGHTS

PROBLEMS = (*UNREADABLE, StrictDataclassError)


def load_native(folder: Path, allocation: Allocation, need: Need, spec: CoreSpec) -> NativeBackbone:
    """Read a core to be run by its class in transformers, where it was allocated; SsdError for weights of another."""
    config = read_config(folder)
    native, own = native_class_of(config), native_part(config)
    options = arguments(allocation, need, blueprint(own), look())
    model = read_native(folder, native.model, own, options).eval().requires_grad_(False)
    if allocation.dtype == "int8":
        keep_activations(model)
    return native.backbone_for(spec)(model, spec)


def read_native(
    folder: Path, kind: type[PreTrainedModel], native: Mapping[str, Any], options: Mapping[str, Any]
) -> PreTrainedModel:
    """Read a class's weights from a folder's safetensors; SsdError if they are missing or another class's.

    native: the configuration. options: further arguments of `from_pretrained`.
    """
    _silence()
    try:
        with quiet():
            loaded: Any = kind.from_pretrained(
                folder,
                config=AutoConfig.for_model(**native),
                local_files_only=True,
                use_safetensors=True,
                attn_implementation=_attention(kind),
                output_loading_info=True,
                **options,
            )
        model, report = loaded
        _check(report)
    except PROBLEMS as error:
        raise unreadable(folder, error) from error
    read: PreTrainedModel = model
    return read


def _attention(kind: type[PreTrainedModel]) -> str:
    """Transformers' attention for a class: PyTorch's own, except where scores are soft-capped, which it cannot do."""
    return "sdpa" if kind._supports_sdpa else "eager"


def frozen_dtype(folder: Path) -> torch.dtype:
    """The dtype of weights that are never trained: bfloat16 if they are stored in it, else float32.

    SsdError for files that cannot be read.
    """
    try:
        return torch.bfloat16 if stored_dtype(folder) == "bfloat16" else torch.float32
    except PROBLEMS as error:
        raise unreadable(folder, error) from error


def _silence() -> None:
    """Keep the libraries' progress bars and their notes on devices off standard error."""
    disable_progress_bar()
    for library in ("accelerate", "bitsandbytes"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "The following device_map keys", module="accelerate")


def _check(report: Mapping[str, Any]) -> None:
    """Raise ValueError if the weights are not the class's."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            raise ValueError(f"{problem.replace('_', ' ')}: {', '.join(map(str, sorted(report[problem])))}")


def input_embeddings(folder: Path, config: Mapping[str, Any]) -> Tensor:
    """A core's input embeddings (V, H) in float32, read without the rest; SsdError if they are missing."""
    try:
        with torch.device("meta"):
            native = AutoConfig.for_model(**native_part(config))
            twin = native_class_of(config).model(native)
        weight = twin.get_input_embeddings().weight
        names = [name for name, value in twin.named_parameters(remove_duplicate=False) if value is weight]
        return _tensor(folder, names).float()
    except PROBLEMS as error:
        raise unreadable(folder, error) from error


def _tensor(folder: Path, names: list[str]) -> Tensor:
    """The first tensor of these names that a folder's safetensors hold."""
    index = folder / INDEX
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.exists() else {}
    files = {name: places.get(name, WEIGHTS) for name in names if name in places or not places}
    for name, place in files.items():
        with safe_open(folder / place, "pt") as file:
            if name in file.keys():  # noqa: SIM118 - the file is no mapping
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(f"no tensor {' or '.join(names)}")
