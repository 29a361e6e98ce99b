"""Where a core runs and how its weights are held: as asked, else as fits."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig
from transformers.distributed.configuration_utils import DistributedConfig

from ssdcli.errors import OutOfMemory, UsageError
from ssdcli.models.hardware import Accelerator, Hardware, look

GIB = 1 << 30
AUTO = "auto"
BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "int4": 4}
DTYPES = (AUTO, *BITS)
_QUANTIZED = ("int8", "int4")
_SLACK = 1.05  # of the weights, for what is rounded up and for activations
_OFFLOADED = 0.9  # of the free memory, for weights that wait there
_COPIES = 3  # of a canvas's predictions, at the moment when most of them are held
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class Need:
    """What a model takes: its parameters, what they are stored as, and the V and L of its predictions."""

    parameters: int
    stored: str
    vocabulary: int
    block_size: int

    @property
    def working(self) -> int:
        """Bytes beside the weights, for one text at a time."""
        return _COPIES * 4 * self.vocabulary * self.block_size

    def bytes(self, dtype: str) -> int:
        """All that is held when the weights are of a dtype."""
        return int(self.parameters * BITS[dtype] / 8 * _SLACK) + self.working


@dataclass(frozen=True)
class Plan:
    """Where a model goes: a key of BITS, torch's name of the main device, and the bytes it takes of those free.

    devices: how many GPUs share the layers; 0 for none. offloads: whether a part waits in memory, or on disk, for its
    turn. processes: how many hold a part of every matrix.
    """

    dtype: str
    device: str
    bytes: int
    free: int
    devices: int = 0
    offloads: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Placement:
    """What a user asks for (UsageError for what cannot be).

    dtype: one of DTYPES. device: "auto" or one of torch's ("cpu", "cuda", "cuda:1", "mps"). offload: let what does not
    fit wait in memory and on disk.
    """

    dtype: str = AUTO
    device: str = AUTO
    offload: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"there is no dtype {self.dtype!r}.", f"Choose one of {', '.join(DTYPES)}.")
        if self.device != AUTO:
            _check_device(self.device)

    @property
    def where(self) -> str:
        """The device that canvases are on."""
        if self.device != AUTO:
            return self.device
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def small(self) -> torch.dtype:
        """What small models run in."""
        return torch.float32 if self.dtype in (AUTO, *_QUANTIZED) else getattr(torch, self.dtype)

    def plan(self, need: Need, hardware: Hardware) -> Plan:
        """Choose what fits, the most exact first; OutOfMemory says what is needed and what there is."""
        self._check_quantization(hardware)
        plans = [self._plan(need, dtype, hardware) for dtype in self._dtypes(need, hardware)]
        fitting = [plan for plan in plans if plan.bytes <= plan.free]
        if fitting:
            return fitting[0]
        if self.offload:
            return replace(plans[0], offloads=True)
        raise _too_large(plans[-1], self)

    def _dtypes(self, need: Need, hardware: Hardware) -> list[str]:
        """The dtypes that may be taken, the best first."""
        if self.dtype != AUTO:
            return [self.dtype]
        fast = _fast(need.stored, self._gpus(hardware), hardware)
        quantized = _QUANTIZED if hardware.quantizes else ()
        return list(dict.fromkeys([fast, need.stored, *quantized]))

    def _gpus(self, hardware: Hardware) -> list[Accelerator]:
        """The GPUs that may be used."""
        if self.device in (AUTO, "cuda"):
            return list(hardware.accelerators)
        return [gpu for gpu in hardware.accelerators if gpu.device == self.device]

    def _plan(self, need: Need, dtype: str, hardware: Hardware) -> Plan:
        """How the model would lie with weights of this dtype, whether it fits or not."""
        total, gpus = need.bytes(dtype), self._gpus(hardware)
        if hardware.processes > 1:
            share = total // hardware.processes
            return Plan(dtype, self.where, share, _free(gpus[:1], hardware), processes=hardware.processes)
        if self.device == "cpu" or not gpus:
            return Plan(dtype, "cpu", total, hardware.free)
        roomy = [gpu for gpu in gpus if gpu.free >= total]
        chosen = roomy[:1] or gpus
        return Plan(dtype, chosen[0].device, total, _free(chosen, hardware), len(chosen))

    def _check_quantization(self, hardware: Hardware) -> None:
        if self.dtype in _QUANTIZED and not hardware.quantizes:
            raise UsageError(
                f"--dtype {self.dtype} needs the package bitsandbytes, which is not installed.",
                "Install it with: pip install 'ssdcli[quantize]'.",
            )


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"there is no device {name!r}.", "Choose auto, cpu, cuda, cuda:N or mps.") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        raise UsageError(f"this machine has no device {name!r}.", "See 'ssd doctor'.")


def _fast(stored: str, gpus: list[Accelerator], hardware: Hardware) -> str:
    """As stored, unless the processor is slow at that."""
    fast = all(gpu.bfloat16 for gpu in gpus) if gpus else hardware.bfloat16
    if stored == "float32" or fast:
        return stored
    return "float16" if gpus else "float32"


def _free(gpus: list[Accelerator], hardware: Hardware) -> int:
    return sum(gpu.free for gpu in gpus) if gpus else hardware.free


def _too_large(plan: Plan, placement: Placement) -> OutOfMemory:
    """What to say when nothing fits."""
    what = f"the model takes {plan.bytes / GIB:.1f} GiB in {plan.dtype}, and {plan.free / GIB:.1f} GiB are free"
    ways = [] if placement.dtype in _QUANTIZED else ["a --dtype of fewer bits"]
    return OutOfMemory(f"{what}.", f"Pass --offload, which is slow, or take {' or '.join([*ways, 'a smaller core'])}.")


def arguments(plan: Plan, need: Need) -> dict[str, Any]:
    """What transformers' `from_pretrained` is told to follow a plan."""
    dtype = torch.bfloat16 if plan.dtype in _QUANTIZED else getattr(torch, plan.dtype)
    told = {"dtype": dtype} | _quantization(plan.dtype)
    if plan.processes > 1:
        return told | {"distributed_config": DistributedConfig(tp_plan="auto")}
    if plan.offloads or plan.devices > 1:
        return told | {"device_map": "auto", "max_memory": _limits(plan, need), "offload_folder": _scratch()}
    return told | {"device_map": {"": plan.device}}


def _quantization(dtype: str) -> dict[str, Any]:
    if dtype == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if dtype == "int4":
        four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
        return {"quantization_config": four}
    return {}


def _limits(plan: Plan, need: Need) -> dict[int | str, int]:
    """The bytes that weights may take of each device and of the memory, room for predictions being kept."""
    hardware = look()
    gpus: dict[int | str, int] = {
        number: gpu.free - need.working for number, gpu in enumerate(hardware.accelerators) if plan.device != "cpu"
    }
    return gpus | {"cpu": int(hardware.free * _OFFLOADED) - need.working}


def _scratch() -> str:
    """A private folder for what is offloaded to disk, gone when the process ends."""
    folder = tempfile.mkdtemp(prefix="ssd-offload-")  # 0700
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def need_of(folder: Path, vocabulary: int, block_size: int) -> Need:
    """What the model in a folder takes, by its safetensors."""
    files = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    with safe_open(files[0], "pt") as first:
        stored = _STORED[first.get_slice(next(iter(first.keys()))).get_dtype()]
    parameters = sum(path.stat().st_size for path in files) * 8 // BITS[stored]
    return Need(parameters, stored, vocabulary, block_size)
