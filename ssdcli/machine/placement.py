"""Where a core runs and how its weights are held: as asked, else as fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.errors import OutOfMemory, UsageError
from ssdcli.machine.units import in_bytes
from ssdcli.options.checks import Check, one_of
from ssdcli.options.declare import check_options, option

if TYPE_CHECKING:
    from ssdcli.machine.hardware import Accelerator, Hardware


AUTO = "auto"
CPU = "cpu"
BITS = {"float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.0, "int4": 4.5}  # with the scales of 64 numbers
DTYPES = (AUTO, *BITS)
QUANTIZED = ("int8", "int4")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_SLACK = 1.05  # on the weights, for rounding up and for activations
_PACKED = 1.5  # 16 and 4 bits of each number, and a head that shares its weights, over 16
_COPIES = 3  # of a canvas's float32 predictions at the peak: logits, their log_softmax, and what the sampler makes


@dataclass(frozen=True)
class Need:
    """What a core takes, in parameters unless said otherwise.

    parameters: all of them.
    linear: those that can be held in 8 or 4 bits.
    pinned: those outside the layers, which stay on the main device.
    layer: those of the largest layer.
    stored: the dtype of its files.
    predictions: V times L, the log-probabilities of one canvas.
    divisible: whether several processes can hold a part of every matrix each.
    cache: numbers in the keys and values of a text, as far as they have to fit beside the weights.
    packs: whether torch's own kernels can run it on a CPU in 16, 8 and 4 bits.
    """

    parameters: int
    linear: int
    pinned: int
    layer: int
    stored: str
    predictions: int
    divisible: bool = True
    cache: int = 0
    packs: bool = False

    @property
    def working(self) -> int:
        """Bytes beside the weights, for one text at a time."""
        return 4 * (_COPIES * self.predictions + self.cache)

    def weights(self, dtype: str) -> int:
        """Bytes of all weights when they are of a dtype."""
        return weight_bytes(self.linear, self.parameters - self.linear, dtype)

    def resident(self, dtype: str) -> int:
        """Bytes on the main device when the layers wait elsewhere for their turn."""
        return weight_bytes(0, self.pinned + self.layer, dtype) + self.working


def weight_bytes(linear: int, other: int, dtype: str) -> int:
    """Bytes of so many parameters of linear layers and of others, which have 16 bits where the former have 8 or 4."""
    return int((linear * BITS[dtype] + other * max(BITS[dtype], 16)) / 8 * _SLACK)


@dataclass(frozen=True)
class Allocation:
    """Where a core goes and what it takes there.

    dtype: of the weights, a key of BITS.
    computes: the dtype of activations, and of weights that are not quantised.
    devices: torch's names, the main one first.
    bytes: what it takes of those free.
    free: the free bytes of the devices.
    offloads: whether layers wait in memory or on disk for their turn.
    processes: how many hold a part of every matrix.
    """

    dtype: str
    computes: str
    devices: tuple[str, ...]
    bytes: int
    free: int
    offloads: bool = False
    processes: int = 1

    @property
    def packs(self) -> bool:
        """Whether the weights can be packed for torch's kernels on CPUs."""
        whole = self.devices == (CPU,) and not self.offloads and self.processes == 1
        return whole and self.dtype in ("bfloat16", *QUANTIZED)

    @property
    def packs_twice(self) -> bool:
        """Whether packed weights fit in 4 bits as well, beside those in 16."""
        return self.bytes * _PACKED <= self.free

    @property
    def fits(self) -> bool:
        """Whether there is enough memory."""
        return self.bytes <= self.free


@dataclass(frozen=True)
class Placement:
    """What a user asks for (UsageError for what cannot be).

    dtype: one of DTYPES.
    device: "auto" or one of torch's: "cpu", "cuda", "cuda:1", "mps".
    offload: let what does not fit wait in memory and on disk.
    cache: let a core with full attention read its prefix once a block, which is an approximation.
    """

    dtype: str = option(
        AUTO,
        f"How a pulled core's weights are held: {', '.join(DTYPES)}.",
        one_of(DTYPES),
        metavar="DTYPE",
        default="auto, which takes what fits",
    )
    device: str = option(
        AUTO,
        "Where models run: cpu, cuda, cuda:N or mps.",
        Check("auto, cpu, cuda, cuda:N or mps", lambda value: _DEVICE.fullmatch(value) is not None),
        metavar="NAME",
        default="auto, which takes GPUs if there are any",
    )
    offload: bool = option(
        False,
        "Keep what does not fit on the device in memory and on disk, which is slow; see 'ssd doctor --for CORE'.",
    )
    cache: bool = option(
        False,
        "Let a core with full attention read the text before a block only once, not at every step: fast, but "
        "approximate.",
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def small(self) -> str:
        """The dtype that small models run in."""
        return "float32" if self.dtype in (AUTO, *QUANTIZED) else self.dtype

    def main_device(self, hardware: Hardware) -> str:
        """Where canvases are, unless a core was allocated elsewhere; UsageError for a device that is not there."""
        gpus = self._gpus(hardware)
        return gpus[0].device if gpus else CPU

    def allocate(self, need: Need, hardware: Hardware) -> Allocation:
        """The most exact allocation that fits; OutOfMemory says what is needed and what is free."""
        gpus = self._gpus(hardware)
        processes = hardware.processes if need.divisible else 1
        candidates = [_allocation(need, dtype, gpus, hardware) for dtype in self._dtypes(need, gpus, hardware)]
        floating = [candidate for candidate in candidates if candidate.dtype not in QUANTIZED]
        if processes > 1:
            candidates = [_shared(candidate, need, processes) for candidate in floating]
        elif self.offload:
            candidates += [_offloaded(candidate, need, gpus, hardware) for candidate in floating]
        for candidate in candidates:
            if candidate.fits:
                return candidate
        raise self._too_large(need, candidates, hardware)

    def _dtypes(self, need: Need, gpus: Sequence[Accelerator], hardware: Hardware) -> list[str]:
        """The dtypes that may be taken, the most exact first."""
        packs = need.packs and not gpus and hardware.processes == 1
        quantizes = packs or (hardware.quantizes and not any(gpu.device == "mps" for gpu in gpus))
        if self.dtype == AUTO:
            short = packs or hardware.bfloat16
            return [*_floating(need.stored, gpus, short=short), *(QUANTIZED if quantizes else ())]
        if self.dtype in QUANTIZED and not (packs or hardware.quantizes):
            raise UsageError(
                f"--dtype {self.dtype} needs the package bitsandbytes, which is not installed.",
                "Install it with: pip install 'ssdcli[quantize]'.",
            )
        if self.dtype in QUANTIZED and not quantizes:
            raise UsageError(f"--dtype {self.dtype} does not work on Apple GPUs.", "Add --device cpu, or take another.")
        if self.dtype in QUANTIZED and hardware.processes > 1:
            raise UsageError(
                f"--dtype {self.dtype} does not work with several processes.",
                "Choose another, or run without torchrun.",
            )
        return [self.dtype]

    def _gpus(self, hardware: Hardware) -> list[Accelerator]:
        """The GPUs that may be used; UsageError for one that does not exist."""
        if self.device == CPU and not (hardware.accelerators and hardware.processes > 1):
            return []
        found = [gpu for gpu in hardware.accelerators if self.device in (AUTO, gpu.device, gpu.device.split(":")[0])]
        if found or self.device == AUTO:
            return found
        if hardware.processes > 1:
            raise UsageError("every process of torchrun has a device of its own.", "Omit --device.")
        raise UsageError(f"this machine has no device {self.device!r}.", "See 'ssd doctor'.")

    def _too_large(self, need: Need, candidates: Sequence[Allocation], hardware: Hardware) -> OutOfMemory:
        """What to say when nothing fits."""
        least = min(candidates, key=lambda allocation: allocation.bytes - allocation.free)
        alone, ways = hardware.processes == 1, ["Take a smaller core"]
        if self.dtype == AUTO and alone and not (need.packs or hardware.quantizes):
            ways.append("take --dtype int8 or int4 (after pip install 'ssdcli[quantize]')")
        if self.dtype not in (AUTO, *QUANTIZED):
            ways.append("take a --dtype of fewer bits")
        if least.devices != (CPU,) and need.weights(least.dtype) < hardware.free:
            ways.append("pass --device cpu")
        if alone and not self.offload:
            ways.append("pass --offload, which is slow" + (", with --dtype auto" if self.dtype in QUANTIZED else ""))
        return OutOfMemory(
            f"the core takes {in_bytes(least.bytes)} in {least.dtype}, and {in_bytes(least.free)} are free.",
            f"{'; or '.join(ways)}.",
        )


FREE = Placement()


def _floating(stored: str, gpus: Sequence[Accelerator], *, short: bool) -> list[str]:
    """The floating dtypes for weights stored as this, the most exact first.

    short: whether a CPU computes in bfloat16; else it is offered there only if it is shorter than the others.
    """
    if gpus:
        best = stored if stored != "bfloat16" else _sixteen(gpus)
    else:
        best = stored if stored == "bfloat16" and short else "float32"
    fewest = best if BITS[best] == 16 else stored if BITS[stored] == 16 else _sixteen(gpus)
    return list(dict.fromkeys([best, fewest]))


def _sixteen(gpus: Sequence[Accelerator]) -> str:
    """The dtype of 16 bits in place of longer ones: bfloat16, which has their range, or float16 on GPUs without it."""
    return "bfloat16" if all(gpu.bfloat16 for gpu in gpus) else "float16"


def _allocation(need: Need, dtype: str, gpus: Sequence[Accelerator], hardware: Hardware) -> Allocation:
    """The allocation for weights of this dtype, whether it fits or not: on one GPU, on all, or on the CPU."""
    computes = _sixteen(gpus) if dtype in QUANTIZED else dtype
    total = need.weights(dtype) + need.working
    if not gpus:
        return Allocation(dtype, computes, (CPU,), total, hardware.free)
    one = next((gpu for gpu in gpus if gpu.free >= total), gpus[0] if len(gpus) == 1 else None)
    if one is not None:
        return Allocation(dtype, computes, (one.device,), total, one.free)
    # Layers are not cut: each GPU needs its own working memory and may waste the room of one layer at its end.
    spare = need.working + weight_bytes(0, need.layer, dtype)
    free = sum(max(0, gpu.free - spare) for gpu in gpus)
    return Allocation(dtype, computes, tuple(gpu.device for gpu in gpus), need.weights(dtype), free)


def _shared(allocation: Allocation, need: Need, processes: int) -> Allocation:
    """The same for one of several processes that each hold a part of every matrix."""
    total = need.weights(allocation.dtype) // processes + need.working
    return replace(allocation, bytes=total, processes=processes)


def _offloaded(allocation: Allocation, need: Need, gpus: Sequence[Accelerator], hardware: Hardware) -> Allocation:
    """The same with layers offloaded: only what stays on the main device has to fit."""
    free = gpus[0].free if gpus else hardware.free
    return replace(allocation, bytes=need.resident(allocation.dtype), free=free, offloads=True)
