"""LoRA adapters (Hu et al., 2021), by peft: two narrow matrices beside each linear layer of a frozen model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from ssdcli.errors import SsdError
from ssdcli.models.weights.adapted import CONFIG, WEIGHTS
from ssdcli.options.checks import seed_word


class Tunable(Protocol):
    """A model that can have an adapter."""

    @property
    def layers(self) -> PreTrainedModel:
        """The native module whose linear layers get adapters."""


def add_adapter(model: Tunable, rank: int, seed: int) -> PeftModel:
    """Add a trainable adapter to a model and freeze all else; untrained, it changes no prediction.

    ValueError for a rank that no layer has.
    """
    module = model.layers
    widest = max(min(part.weight.shape) for part in module.modules() if isinstance(part, nn.Linear))
    if rank > widest:
        raise ValueError(f"no layer has more than {widest} dimensions")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_word(seed))
        return _inject(module, rank)


def _inject(module: PreTrainedModel, rank: int) -> PeftModel:
    """Add an adapter whose update is (alpha / r) B A with alpha = 2 r: scaled by 2 at any rank."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied embeddings, which get no adapter
        adapted: Any = get_peft_model(module, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    tuned: PeftModel = adapted
    return tuned


def adapter_parameters(adapter: PeftModel) -> int:
    """The number of an adapter's parameters."""
    return sum(value.numel() for value in get_peft_model_state_dict(adapter).values())


def save_adapter(adapter: PeftModel, folder: Path) -> None:
    """Write an adapter's weights, as bfloat16, and its configuration, as peft does."""
    state = get_peft_model_state_dict(adapter)
    weights = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in state.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    adapter.peft_config["default"].save_pretrained(str(folder))


def join_adapter(model: Tunable, folder: Path) -> None:
    """Load the adapter in a folder on a model; SsdError if it cannot be read or is another model's.

    Float32 weights absorb it. Beside shorter ones it stays apart, because their rounding would swallow most of it.
    """
    try:
        adapter = _inject(model.layers, int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"]))
        state = load_file(folder / WEIGHTS)
        if state.keys() != get_peft_model_state_dict(adapter).keys():
            raise ValueError("its base has other layers")
        set_peft_model_state_dict(adapter, state)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SsdError(f"the adapter in {folder} cannot be read: {reason}.", "See 'ssd models verify'.") from error
    adapter.requires_grad_(False)
    if all(weight.dtype == torch.float32 for weight in adapter.parameters()):
        merged: Any = adapter.base_model
        merged.merge_and_unload()
