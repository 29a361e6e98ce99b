"""The tensors of a GGUF file under native names, dequantised as they are read, a few rows at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from gguf.constants import MODEL_ARCH_NAMES, GGMLQuantizationType
from gguf.quants import dequantize
from gguf.tensor_mapping import get_tensor_name_map
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.weights.gguf_header import WIDTHS, GgufHeader, GgufTensor, read_header, stored_type
from ssdcli.models.weights.safetensors_stream import AGAIN, FileSpan, StoredTensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IN_CONFIG = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")  # read with it

_PIECE = 1 << 22  # bytes of dequantised numbers held at a time, unless a tensor must be changed as a whole
_TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Change = Callable[[Tensor, Any], Tensor]


def _heads(key: str, weight: Tensor, config: Any) -> Tensor:
    """Undo the order of rows that ggml's rotation wants: per head, pairs of neighbours instead of two halves."""
    pairs: Tensor = weight.unflatten(0, (getattr(config, key), -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)


def _less_one(weight: Tensor, _: Any) -> Tensor:
    """A norm's weight as its distance from one, as the native class has it."""
    return weight - 1


def _transposed(weight: Tensor, _: Any) -> Tensor:
    """A linear layer's weight as (in, out), as GPT-2's class has it."""
    return weight.T


# What was done to tensors when they were written to GGUF, by architecture and name.
CHANGES: dict[str, tuple[tuple[str, Change], ...]] = {
    "gemma2": ((r".*norm\.weight", _less_one),),
    "gemma3": ((r".*norm\.weight", _less_one),),
    "gpt2": ((r".*\.(attn_qkv|attn_output|ffn_up|ffn_down)\.weight", _transposed),),
    "llama": (
        (r".*\.attn_q\.(weight|bias)", partial(_heads, "num_attention_heads")),
        (r".*\.attn_k\.(weight|bias)", partial(_heads, "num_key_value_heads")),
    ),
    "phi3": (),
    "qwen2": (),
    "qwen3": (),
}


@dataclass(frozen=True)
class GgufSpan:
    """The bytes of a tensor when it has been dequantised.

    tensor: its place in the file.
    target: the dtype that it is stored in.
    change: made to it as a whole; without one it is read a few rows at a time.
    bounds: the bytes that are meant; None for all.
    """

    file: Path
    tensor: GgufTensor
    target: torch.dtype
    change: Callable[[Tensor], Tensor] | None = None
    bounds: tuple[int, int] | None = None

    def part(self, begin: int, end: int) -> GgufSpan:
        """The bytes from `begin` to before `end`, counted from the start of this run."""
        start = self.bounds[0] if self.bounds else 0
        return replace(self, bounds=(start + begin, start + end))

    def pieces(self) -> Iterator[memoryview]:
        """The bytes in order; SsdError if the file has become shorter."""
        done = 0
        for values in self._values():
            data = values.to(self.target).contiguous().view(torch.uint8).flatten().numpy().data
            begin, end = self.bounds or (0, done + len(data))
            yield data[max(0, begin - done) : max(0, end - done)]
            done += len(data)

    def _values(self) -> Iterator[Tensor]:
        """The numbers in float32, some rows at a time."""
        *_, width = self.tensor.shape
        rows = self.tensor.elements // width
        step = max(1, _PIECE // (4 * width)) if self.change is None else rows
        with self.file.open("rb") as stream:
            stream.seek(self.tensor.begin)
            for begin in range(0, rows, step):
                values = self._read(stream, min(step, rows - begin), self.tensor.size // rows)
                yield values if self.change is None else self.change(values.view(self.tensor.shape))

    def _read(self, stream: BinaryIO, rows: int, size: int) -> Tensor:
        """The next rows, of so many bytes each, dequantised: (rows, width)."""
        data = stream.read(rows * size)
        if len(data) < rows * size:
            raise SsdError(f"{self.file.name} ends before its last tensor.", AGAIN)
        blocks = np.frombuffer(data, np.uint8).reshape(rows, size)
        with np.errstate(all="ignore"):  # a damaged scale makes numbers that are not finite, and no warnings
            values = dequantize(blocks, GGMLQuantizationType(self.tensor.kind))
        return torch.from_numpy(np.require(values, np.float32, "W"))


def read_gguf(path: Path, model: PreTrainedModel) -> dict[str, StoredTensor]:
    """The tensors of a GGUF file by the names that a native model has for them; nothing is dequantised yet.

    SsdError if the file is damaged, or holds a tensor that the model has no place for.
    """
    with path.open("rb") as stream:
        header = read_header(stream, path.stat().st_size, path.name)
    names = _native_names(header, model)
    found = {}
    for name, tensor in header.tensors.items():
        if name in names:
            found[names[name]] = _stored(path, header, tensor, _change(header, name, model))
        elif name not in IN_CONFIG:
            kind = type(model).__name__
            raise SsdError(f"{path.name} holds a tensor {name!r}, which has no place in a {kind}.", AGAIN)
    return found


def _native_names(header: GgufHeader, model: PreTrainedModel) -> dict[str, str]:
    """The model's names of tensors by those that GGUF has for them."""
    named = next(key for key, name in MODEL_ARCH_NAMES.items() if name == header.architecture)
    table = get_tensor_name_map(named, header.number(f"{header.architecture}.block_count", 0))
    names = {}
    for native in model.state_dict():
        module, _, leaf = native.rpartition(".")
        found = table.get_name(module)
        if found is not None:
            names[f"{found}.{leaf}"] = native
    return names


def _change(header: GgufHeader, name: str, model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """What has to be undone of a tensor of this name in GGUF; None for what is as the native class has it."""
    for pattern, change in CHANGES[header.architecture]:
        if re.fullmatch(pattern, name):
            return lambda weight: change(weight, model.config)
    return None


def _stored(
    path: Path, header: GgufHeader, tensor: GgufTensor, change: Callable[[Tensor], Tensor] | None
) -> StoredTensor:
    kept = stored_type(header, tensor)
    size = tensor.elements * WIDTHS[kept]
    if change is None and size == tensor.size:  # plain numbers, which are copied
        return StoredTensor(kept, tensor.shape, size, (FileSpan(path, tensor.begin, tensor.begin + size),))
    shape = tensor.shape if change is None else tuple(change(torch.empty(tensor.shape, device="meta")).shape)
    return StoredTensor(kept, shape, size, (GgufSpan(path, tensor, _TORCH[kept], change),))
