"""The devices and the memory of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import psutil
import torch

from ssdcli.errors import UsageError


@dataclass(frozen=True)
class Accelerator:
    """A GPU.

    device: torch's name of it: "cuda:0", "mps".
    name: its maker's name of it.
    memory: in bytes.
    free: in bytes, now.
    bfloat16: whether it multiplies bfloat16 natively.
    """

    device: str
    name: str
    memory: int
    free: int
    bfloat16: bool


@dataclass(frozen=True)
class Hardware:
    """What one process may use.

    cores: of the CPU.
    memory: in bytes.
    free: in bytes, now; of several processes on a machine, each has its share.
    bfloat16: whether the CPU multiplies bfloat16 natively.
    accelerators: the GPUs; of several processes, each has one.
    quantizes: whether weights can be held in 8 and 4 bits, which needs bitsandbytes.
    processes: how many run one model together (torchrun).
    """

    cores: int
    memory: int
    free: int
    bfloat16: bool
    accelerators: tuple[Accelerator, ...] = ()
    quantizes: bool = False
    processes: int = 1


def look() -> Hardware:
    """Describe the machine as it is now; UsageError if there are GPUs, but fewer than processes."""
    memory = psutil.virtual_memory()
    return Hardware(
        cores=os.cpu_count() or 1,
        memory=memory.total,
        free=memory.available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        bfloat16=has_fast_bf16(),
        accelerators=_accelerators(),
        quantizes=find_spec("bitsandbytes") is not None,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices natively (AVX-512 BF16 or AMX)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _accelerators() -> tuple[Accelerator, ...]:
    if torch.cuda.is_available():
        own, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
        if own is not None and int(own) >= count:
            raise UsageError("there are more processes than GPUs.", f"Pass torchrun --nproc-per-node {count}.")
        return tuple(_cuda(number) for number in (range(count) if own is None else [int(own)]))
    if torch.backends.mps.is_available():
        memory = psutil.virtual_memory()  # shared with the CPU
        return (Accelerator("mps", "Apple GPU", memory.total, memory.available, bfloat16=True),)
    return ()


def _cuda(number: int) -> Accelerator:
    free, total = torch.cuda.mem_get_info(number)
    modern = torch.cuda.get_device_capability(number) >= (8, 0)
    return Accelerator(f"cuda:{number}", torch.cuda.get_device_name(number), total, free, modern)
