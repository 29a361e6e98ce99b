"""Checkpoints that are pickles: opened only if they hold nothing but tensors, and read without copying."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.weights.safetensors_stream import AGAIN, StoredTensor

_WRAPPER = "module."  # prefix that data-parallel training adds to every name
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, eq=False)
class TensorSpan:
    """The bytes of a tensor, in row-major order, from `begin` to before `end`."""

    tensor: Tensor
    begin: int
    end: int

    def part(self, begin: int, end: int) -> TensorSpan:
        """The bytes from `begin` to before `end`, counted from the start of this run."""
        return TensorSpan(self.tensor, self.begin + begin, self.begin + end)

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in one piece, mapped from the file unless the tensor is not in row-major order there."""
        whole = self.tensor.detach().contiguous()
        # A single element may have a stride with which it cannot be viewed as bytes.
        values = whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)
        yield values[self.begin : self.end].numpy().data


def read_pickle(path: Path, prefix: str) -> dict[str, StoredTensor]:
    """The tensors of a pickled table, by prefix + name; SsdError if the file holds anything else."""
    try:
        # Only the zip format can be mapped, not the older one.
        table = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # damaged pickles fail in every way
        raise _refused(path, (str(error).strip().splitlines() or [type(error).__name__])[0]) from error
    if not isinstance(table, Mapping):
        raise _refused(path, f"it holds a {type(table).__name__}")
    named = {prefix + str(name).removeprefix(_WRAPPER): _stored(path, name, value) for name, value in table.items()}
    if len(named) < len(table):
        raise _refused(path, f"it holds a tensor twice, with and without {_WRAPPER!r} before its name")
    return named


def _stored(path: Path, name: object, value: object) -> StoredTensor:
    if not isinstance(value, Tensor):
        raise _refused(path, f"{name} is a {type(value).__name__}")
    if value.layout is not torch.strided or value.dtype not in _DTYPES:
        raise _refused(path, f"{name} is a tensor of {value.layout} {value.dtype}")
    return StoredTensor(_DTYPES[value.dtype], tuple(value.shape), value.nbytes, (TensorSpan(value, 0, value.nbytes),))


def _refused(path: Path, reason: str) -> SsdError:
    return SsdError(
        f"{path.name} is damaged or holds something other than plain tensors ({reason.rstrip('.')}); such a "
        "pickle could run any program, and is not opened.",
        AGAIN,
    )
