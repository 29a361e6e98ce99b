"""Whether a core fits on this machine and how fast it is there, told without the libraries that run it if possible."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.engine.process import make_process
from ssdcli.engine.sampling.reverse import reverse_process
from ssdcli.errors import SsdError
from ssdcli.machine.hardware import Hardware
from ssdcli.machine.placement import CPU, FREE, QUANTIZED, Allocation, Need, Placement
from ssdcli.machine.units import in_bytes
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.weights.stored import core_need

if TYPE_CHECKING:
    from ssdcli.registry.manifest import ModelSpec
    from ssdcli.registry.store import Entry


def need_of_entry(entry: Entry) -> Need:
    """What a registered core needs; SsdError if it cannot be read."""
    config, manifest = read_config(entry.folder), entry.manifest
    if KEY in config:
        return core_need(entry.folder, config, CoreSpec.of(manifest, config[KEY]))
    predictions = manifest.vocabulary * manifest.block_size
    return Need(manifest.parameters, 0, manifest.parameters, 0, "float32", predictions, divisible=False)


def summary(need: Need, hardware: Hardware, placement: Placement = FREE) -> str:
    """One sentence: how a core would be held, or why it cannot be."""
    try:
        return held(placement.allocate(need, hardware))
    except SsdError as error:
        return str(error)


def held(allocation: Allocation) -> str:
    """One sentence: how a core is held by an allocation."""
    where = " and ".join(allocation.devices)
    if allocation.processes > 1:
        where += f", a part in each of {allocation.processes} processes"
    if allocation.offloads:
        where += ", with layers kept in memory or on disk"
    taken, free = in_bytes(allocation.bytes), in_bytes(allocation.free)
    return f"{allocation.dtype} on {where}: takes {taken} of the {free} that are free."


SEEN = 128  # tokens before the canvas of the predicted step
_SIDE = 4096  # of the matrices that are multiplied to measure the machine: no cache holds two of them
_MOST_ROWS = 32  # on a CPU, which is no faster with more, and takes minutes where it is slow
_SECONDS = 0.15  # spent on each measurement


@cache
def rate(rows: int, dtype: str, device: str) -> float:
    """FLOP/s of multiplying so many rows by large matrices; a single row goes as fast as memory is read."""
    rows = min(rows, _MOST_ROWS) if device == CPU else rows
    matrices = _matrices(dtype, device)
    x = torch.ones(rows, _SIDE, dtype=matrices[0].dtype, device=device)
    count, started = 0, 0.0
    while count < 3 or time.perf_counter() - started < _SECONDS:
        y = functional.linear(x, matrices[count % 2])  # as layers do: some CPUs are slow at other forms
        float(y[0, 0])  # waits for a GPU
        count += 1
        if count == 2:  # the first ones only warm up
            started = time.perf_counter()
    return 2 * rows * _SIDE**2 * (count - 2) / (time.perf_counter() - started)


@cache
def _matrices(dtype: str, device: str) -> list[Tensor]:
    """Those that are multiplied, for all measurements: filling them takes half as long as one."""
    return [torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype), device=device) for _ in range(2)]


def bandwidth(dtype: str, device: str) -> float:
    """Bytes of weights a second that are read to multiply one row by them."""
    return rate(1, dtype, device) / 2 * float(getattr(torch, dtype).itemsize)


def is_told_by_products(allocation: Allocation) -> bool:
    """Whether the speed of products decides how fast a core is."""
    return allocation.dtype not in QUANTIZED and len(allocation.devices) == 1 and allocation.processes == 1


def tokens_per_second(need: Need, model: ModelSpec, vocabulary: int, allocation: Allocation) -> float | None:
    """How fast a core would write, if every parameter takes part in every pass; None where other things decide."""
    if not is_told_by_products(allocation):
        return None
    how = allocation.computes, allocation.devices[0]
    if model.attention == "autoregressive":
        return rate(1, *how) / (2 * need.parameters)
    rows = model.block_size + (SEEN if model.attention == "full" else 0)
    steps = reverse_process(make_process(model.process, vocabulary, model.constants)).steps_of(model.block_size)
    return model.block_size * rate(rows, *how) / (2 * need.parameters * rows * steps)


def tokens_read_per_second(need: Need, allocation: Allocation) -> float:
    """How fast a causal core whose speed products decide would read text."""
    return rate(_MOST_ROWS, allocation.computes, allocation.devices[0]) / (2 * need.parameters)
