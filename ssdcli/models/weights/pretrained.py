"""Weights read by transformers' `from_pretrained` to where they were allocated, quantised if asked."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from ssdcli.errors import OutOfMemory
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import CPU, Allocation, Need, weight_bytes
from ssdcli.machine.units import in_bytes
from ssdcli.models.packable import is_packable

DISK = "disk"
_MEMORY = 0.9  # the share of free memory that offloaded layers may take


@dataclass(frozen=True)
class ModelPart:
    """What goes to one device as a whole: a layer, or a module or tensor beside the layers.

    name: in the model.
    is_layer: whether it is a layer.
    linear: how many parameters it has that can be held in 8 or 4 bits.
    other: how many others.
    tied: the name of the part that shares some of its parameters and counts them.
    """

    name: str
    is_layer: bool
    linear: int
    other: int
    tied: str | None

    @property
    def parameters(self) -> int:
        """All that it counts."""
        return self.linear + self.other


def need_of(twin: PreTrainedModel, stored: str, block_size: int, cached: int = 0) -> Need:
    """What a model needs, read off its twin on the meta device.

    stored: the dtype of its files. cached: the tokens whose keys and values must fit beside the weights; none but of a
    causal core.
    """
    found = parts(twin)
    config: Any = twin.config.get_text_config()
    return Need(
        parameters=sum(part.parameters for part in found),
        linear=sum(part.linear for part in found),
        pinned=sum(part.parameters for part in found if not part.is_layer),
        layer=max(part.parameters for part in found if part.is_layer),
        stored=stored,
        predictions=config.vocab_size * block_size,
        divisible=twin.supports_tp_plan,
        cache=cached * _cached_numbers(config) if cached else 0,
        packs=cached > 0 and is_packable(twin.config.to_dict()),
    )


def _cached_numbers(config: Any) -> int:
    """How many numbers the keys and values of one token are."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width)


def parts(twin: PreTrainedModel) -> list[ModelPart]:
    """All parts of a model in the order in which it is built; of tied parameters, the first is counted."""
    weights = dict(twin.named_parameters(remove_duplicate=False))
    matrices = {f"{name}.weight" for name, module in twin.named_modules() if isinstance(module, nn.Linear)}
    counted: dict[str, str] = {}
    found = []
    for name, is_layer in _names(twin):
        sources = {key: twin.all_tied_weights_keys.get(key, key) for key in weights if f"{key}.".startswith(f"{name}.")}
        own = {source: weights[key].numel() for key, source in sources.items() if source not in counted}
        linear = sum(own.get(source, 0) for key, source in sources.items() if is_layer and key in matrices)
        tied = next((counted[source] for source in sources.values() if source in counted), None)
        found.append(ModelPart(name, is_layer, linear, sum(own.values()) - linear, tied))
        counted |= dict.fromkeys(own, name)
    return found


def _names(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """The names of the outermost layers, and of modules and tensors beside them; and whether they are layers."""
    for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        yield prefix + name, False
    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList):
            yield prefix + name, True
        elif any(isinstance(part, nn.ModuleList) for part in child.modules()):
            yield from _names(child, f"{prefix}{name}.")
        else:
            yield prefix + name, False


def arguments(allocation: Allocation, need: Need, twin: PreTrainedModel, hardware: Hardware) -> dict[str, Any]:
    """The arguments of `from_pretrained` for an allocation; OutOfMemory where a part fits nowhere."""
    options = {"dtype": getattr(torch, allocation.computes)} | _quantization(allocation)
    if allocation.processes > 1:
        return options | {"distributed_config": DistributedConfig(tp_plan="auto")}
    if not allocation.offloads and len(allocation.devices) == 1:
        return options | {"device_map": {"": allocation.devices[0]}}
    device_map = spread(parts(twin), rooms(allocation, need, hardware), allocation.dtype)
    return options | {"device_map": device_map, "offload_folder": _scratch()}


def _quantization(allocation: Allocation) -> dict[str, Any]:
    if allocation.dtype == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if allocation.dtype == "int4":
        computes = getattr(torch, allocation.computes)
        four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computes)
        return {"quantization_config": four}
    return {}


def rooms(allocation: Allocation, need: Need, hardware: Hardware) -> dict[str, int]:
    """The bytes that weights may take of each device, in the order in which they are filled."""
    spare = need.working + (weight_bytes(0, need.layer, allocation.dtype) if allocation.offloads else 0)
    gpus = {gpu.device: gpu.free - spare for gpu in hardware.accelerators if gpu.device in allocation.devices}
    if not allocation.offloads:
        return gpus
    return gpus | {CPU: int(hardware.free * _MEMORY) if gpus else hardware.free - spare, DISK: sys.maxsize}


def spread(parts: Sequence[ModelPart], left: dict[str, int], dtype: str) -> dict[str, str]:
    """The device of each part: layers fill one device after the other, all else is on the first.

    Tied parts go to the same device. OutOfMemory for a part that fits nowhere.
    """
    left, main = dict(left), next(iter(left))
    found: dict[str, str] = {}
    for part in sorted(parts, key=lambda part: part.is_layer):
        size = weight_bytes(part.linear, part.other, dtype)
        open_to = list(left) if part.is_layer else [main]
        device = next((name for name in open_to if left[name] >= size), None)
        if device is None:
            raise OutOfMemory(f"{part.name} takes {in_bytes(size)}, which fits nowhere.", "Take a smaller core.")
        device = device if part.tied is None else found[part.tied]
        found[part.name] = device
        left[device] -= size
    return found


def _scratch() -> str:
    """A private folder for offloaded weights that have to be rewritten, deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="ssd-offload-")  # 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Int8Linear(nn.Module):
    """y = s (x W^T) + b with W in 8 bits and a scale s for each of its rows.

    Weights and scales are those of LLM.int8 (Dettmers et al., 2022). That rounds x too, except for columns with
    outliers, and which columns those are depends on all rows of a batch; here a row's result must not.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, largest: Tensor, bias: Tensor | None) -> None:
        """weight: (out, in) int8, of which 127 stands for the row's largest number: (out,); bias: (out,)."""
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("scale", largest.float() / 127)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y = nn.functional.linear(x, self.weight.to(x.dtype)) * self.scale
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def keep_activations(model: PreTrainedModel) -> None:
    """Replace every layer in which bitsandbytes rounds activations too by an `Int8Linear`."""
    from bitsandbytes.nn import Linear8bitLt

    for name, layer in list(model.named_modules()):
        if isinstance(layer, Linear8bitLt):
            model.set_submodule(name, Int8Linear(layer.weight.data, layer.weight.SCB, layer.bias))
