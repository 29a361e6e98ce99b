"""The module of a native class without weights, and the tensors that it expects of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from ssdcli.errors import SsdError
from ssdcli.models.auto_model import quiet
from ssdcli.models.backbones.native_class import native_class_of
from ssdcli.models.weights.safetensors_stream import AGAIN, StoredTensor

_FLOATS = ("F64", "F32", "F16", "BF16")
_OUTLIVED = (r"(^|\.)rotary_emb\.inv_freq$", r"(^|\.)position_ids$")  # saved in the past; every class computes them now


def blueprint(native: Mapping[str, Any]) -> PreTrainedModel:
    """The module of a native configuration on the meta device; SsdError if it cannot be built."""
    native_class = native_class_of(native).model
    try:
        with torch.device("meta"), quiet():
            return native_class(AutoConfig.for_model(**native))
    except Exception as error:  # each class refuses in its own way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SsdError(f"config.json describes no model that transformers can build: {reason}.", AGAIN) from error


def check(model: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise SsdError for a tensor that is missing, unexpected, or of the wrong shape or type."""
    expected = model.state_dict()
    tied = model.all_tied_weights_keys
    present = {tied.get(name, name) for name in tensors}
    for name, weight in expected.items():
        if name in tensors:
            _check_tensor(name, tensors[name], weight)
        elif tied.get(name, name) not in present:
            raise _contradiction(f"{name} should be of shape {tuple(weight.shape)}, and is missing")
    for name in sorted(tensors.keys() - expected.keys()):
        if not _ignored(model, name):
            raise _contradiction(f"{name}, of shape {tensors[name].shape}, has no place in a {type(model).__name__}")


def _check_tensor(name: str, found: StoredTensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise _contradiction(f"{name} should be of shape {tuple(expected.shape)}, and is of {found.shape}")
    if expected.is_floating_point() and found.dtype not in _FLOATS:
        raise _contradiction(f"{name} should hold floating-point numbers, and holds {found.dtype}")


def wanted(model: PreTrainedModel, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors that the model reads, in its order, without tied ones that repeat their source."""
    found = {name: tensors[name] for name in model.state_dict() if name in tensors}
    for name, source in model.all_tied_weights_keys.items():
        if name in found and source in found and found[name].digest() == found[source].digest():
            del found[name]
    return found


def parameters(model: PreTrainedModel) -> int:
    """The number of parameters; tied ones count once."""
    named = model.named_parameters(remove_duplicate=False)
    return sum(weight.numel() for name, weight in named if name not in model.all_tied_weights_keys)


def _ignored(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers too ignores a tensor that the model has no place for."""
    return any(re.search(pattern, name) for pattern in (*_OUTLIVED, *(model._keys_to_ignore_on_load_unexpected or ())))


def _contradiction(reason: str) -> SsdError:
    return SsdError(f"the configuration contradicts the weights: {reason}.", AGAIN)
