"""Tensors that stay in their files: described by headers, cut, joined and stacked unread, copied in pieces."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from ssdcli.errors import SsdError

AGAIN = "Get it again; if that does not help, its authors must repair it."

_PIECE = 2**22  # bytes held at a time


class Span(Protocol):
    """A run of bytes that can be read."""

    def part(self, begin: int, end: int) -> Span:
        """The bytes from `begin` to before `end`, counted from the start of this run."""

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes in order, a few at a time; SsdError if they are not all there."""


@dataclass(frozen=True)
class FileSpan:
    """The bytes of a file from `begin` to before `end`."""

    file: Path
    begin: int
    end: int

    def part(self, begin: int, end: int) -> FileSpan:
        """The bytes from `begin` to before `end`, counted from the start of this run."""
        return FileSpan(self.file, self.begin + begin, self.begin + end)

    def pieces(self) -> Iterator[bytes]:
        """The bytes in order, a few at a time; SsdError if the file has become shorter."""
        # Read, not mapped: mapped pages would count as memory of the process until it ends.
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.begin)
            left = self.end - self.begin
            while left:
                piece = stream.read(min(left, _PIECE))
                if not piece:
                    raise SsdError(f"{self.file.name} ends before its last tensor.", AGAIN)
                yield piece
                left -= len(piece)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in row-major order, wherever its bytes are.

    dtype: as safetensors names it: "BF16".
    shape: as usual.
    size: in bytes.
    spans: where the bytes are, in order.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    spans: tuple[Span, ...]

    @property
    def width(self) -> int:
        """Bytes of one element; 0 if there is none."""
        return self.size // max(1, math.prod(self.shape))

    def cut(self, rows: Sequence[int]) -> list[StoredTensor]:
        """Cut along the first dimension into parts of so many rows; ValueError unless these are all rows."""
        if not self.shape or min(rows) < 1 or sum(rows) != self.shape[0]:
            raise ValueError(f"a tensor of shape {self.shape} has no {' + '.join(map(str, rows))} rows")
        (span,) = self.spans
        row = self.size // self.shape[0]
        bounds = pairwise(accumulate(rows, initial=0))
        return [
            replace(
                self,
                shape=(end - begin, *self.shape[1:]),
                size=(end - begin) * row,
                spans=(span.part(begin * row, end * row),),
            )
            for begin, end in bounds
        ]

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes in order, a few at a time."""
        for span in self.spans:
            yield from span.pieces()

    def digest(self) -> bytes:
        """The sha256 of the bytes."""
        hashed = hashlib.sha256()
        for piece in self.pieces():
            hashed.update(piece)
        return hashed.digest()


def joined(tensors: Sequence[StoredTensor]) -> StoredTensor:
    """Concatenate tensors along their first dimension; ValueError if they do not fit each other."""
    _must_agree([(tensor.dtype, tensor.shape[1:]) for tensor in tensors])
    if not all(tensor.shape for tensor in tensors):
        raise ValueError("a single number has no rows")
    return _chained(tensors, (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:]))


def stacked(tensors: Sequence[StoredTensor]) -> StoredTensor:
    """Stack tensors along a new first dimension; ValueError if they do not fit each other."""
    _must_agree([(tensor.dtype, tensor.shape) for tensor in tensors])
    return _chained(tensors, (len(tensors), *tensors[0].shape))


def _must_agree(kinds: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    for dtype, shape in kinds:
        if (dtype, shape) != kinds[0]:
            raise ValueError(f"{kinds[0][0]} {kinds[0][1]} does not fit {dtype} {shape}")


def _chained(tensors: Sequence[StoredTensor], shape: tuple[int, ...]) -> StoredTensor:
    spans = tuple(span for tensor in tensors for span in tensor.spans)
    return StoredTensor(tensors[0].dtype, shape, sum(tensor.size for tensor in tensors), spans)


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, from its header alone; SsdError if it is truncated or contradicts itself."""
    try:
        # The library checks shapes, types, offsets and the file's length, but does not reveal the offsets.
        with safe_open(path, "pt"), path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise SsdError(f"{path.name} is cut off or damaged ({error}).", AGAIN) from error
    header.pop("__metadata__", None)
    return {name: _stored(path, 8 + length, entry) for name, entry in header.items()}


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    span = FileSpan(path, start + begin, start + end)
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), end - begin, (span,))


def write_safetensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Write a file tensor by tensor, a few MB at a time."""
    # The widest elements first, so that each tensor begins at a multiple of its element width, as readers require.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].width)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.size
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            stream.writelines(tensor.pieces())
