"""The header of a GGUF file: metadata and the table of tensors, checked against the file's size before use.

The format is described in ggml's docs/gguf.md. Lengths, counts and places are the file's own claims: none is acted upon
before it is known that the file has room for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO

from ssdcli.errors import SsdError
from ssdcli.models.weights.safetensors_stream import AGAIN

GGUF = ".gguf"
EXACT = 4 * 10**9  # bytes in float32 up to which quantised tensors are stored without loss
WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
LONGEST = 1 << 26  # bytes of a header that are read at most; one with a vocabulary of 262,144 tokens takes 10 MB

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_ELEMENTS = 1 << 22  # of all arrays together, since each becomes an object
_MOST_TENSORS = 1 << 17
_MOST_DIMENSIONS = 4
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_LEAST_TEXT, _LEAST_FIELD, _LEAST_TENSOR = 8, 13, 32  # bytes that one takes at least
_PLAIN = {0: "F32", 1: "F16", 30: "BF16"}
_ALIGNMENT, _STEP = "general.alignment", 32
_PARTS = "split.count"
_OTHER = "Get the model in another file."

Value = str | int | float | bool | tuple["Value", ...]


@dataclass(frozen=True)
class Field:
    """One entry of the metadata.

    value: an array as a tuple.
    stored: the bytes of key, type and value.
    """

    value: Value
    stored: bytes


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in a GGUF file.

    shape: as PyTorch has it, in row-major order.
    kind: the number of its type in ggml.
    begin: its first byte in the file.
    size: in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    size: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    name: the file's, for messages.
    fields: the metadata, by key.
    tensors: by name, in the order of their places.
    """

    name: str
    fields: Mapping[str, Field]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The architecture's name in ggml: "llama"."""
        return self.text("general.architecture") or ""

    def text(self, key: str) -> str | None:
        """The text of this key in the metadata; None if there is none."""
        value = self.fields[key].value if key in self.fields else None
        return value if isinstance(value, str) else None

    def number(self, key: str, default: int) -> int:
        """The whole number of this key in the metadata; the default if there is none."""
        value = self.fields[key].value if key in self.fields else None
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def real(self, key: str) -> float | None:
        """The number of this key in the metadata; None if there is none."""
        value = self.fields[key].value if key in self.fields else None
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    def array(self, key: str) -> tuple[Value, ...]:
        """The array of this key in the metadata; empty if there is none."""
        value = self.fields[key].value if key in self.fields else None
        return value if isinstance(value, tuple) else ()


@cache
def block_of(kind: int) -> tuple[int, int] | None:
    """Elements and bytes of a block of a type, (1, bytes) for plain numbers; None if gguf cannot read such tensors."""
    import numpy as np
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        known = GGMLQuantizationType(kind)
        elements, size = GGML_QUANT_SIZES[known]
        dequantize(np.zeros((1, size), np.uint8), known)
    except (ValueError, KeyError, NotImplementedError):
        return None
    return elements, size


def type_name(kind: int) -> str:
    """The name of a type in ggml: "Q4_K"; its number if it has none."""
    from gguf.constants import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return str(kind)


def read_header(stream: BinaryIO, size: int, name: str) -> GgufHeader:
    """Read the header at the beginning of a file of so many bytes; nothing behind it is read.

    Raises SsdError if this is no GGUF file, if it is cut off or contradicts itself, and for a part of a file, and for
    tensors of a type that is not known.
    """
    reader = _Reader(stream, size, name)
    if size < len(_MAGIC) or reader.take(len(_MAGIC)) != _MAGIC:
        raise SsdError(f"{name} is not a GGUF file.", "Name one that is.")
    version = reader.number("I")
    if version not in _VERSIONS:
        order = ", or its bytes are in the other order" if version & 0xFFFF == 0 else ""
        raise SsdError(f"{name} is of version {version} of GGUF{order}; only 2 and 3 are known.", _OTHER)
    tensors, entries = reader.count(_LEAST_TENSOR), reader.count(_LEAST_FIELD)
    if tensors > _MOST_TENSORS:
        raise reader.wrong(f"it announces {tensors:,} tensors")
    fields = dict(_fields(reader, entries))
    header = GgufHeader(name, fields, {})
    _check_whole(header)
    placed = _placed(reader, list(_table(reader, tensors)), header.number(_ALIGNMENT, _STEP))
    return GgufHeader(name, fields, {tensor.name: tensor for tensor in placed})


class _Reader:
    """Reads numbers and texts one after the other, and never more than the file can hold.

    name: the file's.
    size: of the file.
    position: how many bytes were read.
    """

    def __init__(self, stream: BinaryIO, size: int, name: str) -> None:
        self.position = 0
        self.name, self.size = name, size
        self._stream = stream
        self._elements = 0
        self._read = bytearray()

    @property
    def left(self) -> int:
        """Bytes of the file after the position."""
        return self.size - self.position

    def take(self, count: int) -> bytes:
        """The next bytes; SsdError if the file, or what is read of a header, has fewer."""
        if self.position + count > LONGEST:
            raise self.wrong(f"its header is longer than {LONGEST >> 20} MiB")
        data = self._stream.read(count) if count <= self.left else b""
        if len(data) < count:
            raise SsdError(f"{self.name} is cut off within its header.", AGAIN)
        self.position += count
        self._read += data
        return data

    def since(self, begin: int) -> bytes:
        """The bytes from a former position to the present one."""
        return bytes(self._read[begin:])

    def number(self, code: str) -> int:
        """The next number, by its code in `struct`."""
        (found,) = self.numbers(code, 1)
        return int(found)

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        """The next numbers, by their code in `struct`."""
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}")))

    def count(self, least: int) -> int:
        """The next number, of things that take at least so many bytes each; SsdError if there is no room for them."""
        found = int.from_bytes(self.take(8), "little")  # there is one before each text of a vocabulary
        if found * least > self.left:
            raise self.wrong(f"it announces {found:,} entries where {self.left:,} bytes are left")
        return found

    def text(self) -> str:
        """The next text."""
        data = self.take(self.count(1))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"the text before byte {self.position:,} is not UTF-8") from None

    def value(self, kind: int) -> Value:
        """The next value of a type of the metadata."""
        if kind in _SCALARS:
            scalar: Value = self.numbers(_SCALARS[kind], 1)[0]
            return scalar
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.number("I"))
        raise self.wrong(f"it has a value of the unknown type {kind} before byte {self.position:,}")

    def _array(self, kind: int) -> tuple[Value, ...]:
        width = struct.calcsize(f"<{_SCALARS[kind]}") if kind in _SCALARS else _LEAST_TEXT
        count = self.count(width)
        self._elements += count
        if self._elements > _MOST_ELEMENTS:
            raise self.wrong(f"its metadata have more than {_MOST_ELEMENTS:,} elements")
        if kind in _SCALARS:
            return self.numbers(_SCALARS[kind], count)
        if kind == _TEXT:
            return tuple(self.text() for _ in range(count))
        raise self.wrong(f"it has an array of the unknown type {kind} before byte {self.position:,}")

    def wrong(self, reason: str) -> SsdError:
        """The error for a header that contradicts the file or itself."""
        return SsdError(f"{self.name} is damaged: {reason}.", AGAIN)


def _fields(reader: _Reader, count: int) -> Iterator[tuple[str, Field]]:
    """The entries of the metadata; SsdError for a key that is empty or comes twice."""
    known = set()
    for _ in range(count):
        begin = reader.position
        key = reader.text()
        if not key or key in known:
            raise reader.wrong(f"it has {key!r} twice" if key else "it has an entry without a key")
        known.add(key)
        value = reader.value(reader.number("I"))
        yield key, Field(value, reader.since(begin))


def _check_whole(header: GgufHeader) -> None:
    """Raise SsdError for a part of a model, and for a file that does not say what model it is."""
    parts = header.number(_PARTS, 1)
    if parts != 1:
        raise SsdError(f"{header.name} is one of {parts} parts of a model.", "Join them with llama-gguf-split --merge.")
    if not header.architecture:
        raise SsdError(f"{header.name} does not name its architecture.", _OTHER)


def _table(reader: _Reader, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """Name, shape, type and offset of each tensor."""
    for _ in range(count):
        name, dimensions = reader.text(), reader.number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise reader.wrong(f"{name!r} has {dimensions:,} dimensions")
        shape = reader.numbers("Q", dimensions)[::-1]
        yield name, shape, reader.number("I"), reader.number("Q")


def _placed(reader: _Reader, table: Sequence[tuple[str, tuple[int, ...], int, int]], step: int) -> Iterator[GgufTensor]:
    """The tensors; SsdError if two have one name, or if their places are not in the file, one after another."""
    if step < 1 or step & (step - 1):
        raise reader.wrong(f"its alignment is {step}")
    start = -(-reader.position // step) * step
    names, end = set(), start
    for name, shape, kind, offset in sorted(table, key=lambda entry: entry[3]):
        size, begin = _size(reader, name, shape, kind), start + offset
        if name in names:
            raise reader.wrong(f"it has the tensor {name!r} twice")
        if begin < end or offset % step:
            raise reader.wrong(f"the tensor {name!r} begins at byte {begin:,}, where none can")
        end = begin + size
        if end > reader.size:
            raise SsdError(f"{reader.name} is cut off: the tensor {name!r} goes on after its end.", AGAIN)
        names.add(name)
        yield GgufTensor(name, shape, kind, begin, size)


def _size(reader: _Reader, name: str, shape: tuple[int, ...], kind: int) -> int:
    """The bytes of a tensor; SsdError if its type is not known, or does not divide its rows."""
    block = block_of(kind)
    if block is None:
        problem = f"the tensor {name!r} of {reader.name} has the type {type_name(kind)}, which gguf cannot read."
        raise SsdError(problem, "Get the model in another quantisation, such as Q8_0 or Q4_K_M.")
    elements, size = block
    if min(shape) < 1 or shape[-1] % elements:
        raise reader.wrong(f"the tensor {name!r} of type {type_name(kind)} has the shape {shape}")
    return math.prod(shape) // elements * size


def stored_type(header: GgufHeader, tensor: GgufTensor) -> str:
    """The type, as safetensors names it, that a tensor is stored in: plain numbers keep theirs."""
    return _PLAIN.get(tensor.kind) or dequantised_type(header)


def dequantised_type(header: GgufHeader) -> str:
    """The type of all tensors that have been dequantised.

    float32 loses nothing. Where that takes more than EXACT bytes, bfloat16 halves disk, memory and time, and rounds
    numbers by a tenth of what quantising them to 4 bits did; float16 would be finer, but not all models stay in its
    range when they compute in it.
    """
    exact = sum(tensor.elements for tensor in header.tensors.values()) * WIDTHS["F32"]
    return "F32" if exact <= EXACT else "BF16"


def dequantisation(header: GgufHeader) -> str:
    """What is done to the weights, in words: "dequantised from Q4_1 and Q8_0 to float32"."""
    kinds = sorted({type_name(tensor.kind) for tensor in header.tensors.values() if tensor.kind not in _PLAIN})
    if not kinds:
        return "converted"
    target = "float32" if dequantised_type(header) == "F32" else "bfloat16"
    return f"dequantised from {' and '.join(filter(None, (', '.join(kinds[:-1]), kinds[-1])))} to {target}"


def stored_bytes(header: GgufHeader) -> int:
    """The bytes of all tensors when they have been dequantised."""
    tensors = header.tensors.values()
    return sum(tensor.elements * WIDTHS[stored_type(header, tensor)] for tensor in tensors)


def excerpt(header: GgufHeader, keys: Iterable[str]) -> bytes:
    """A small GGUF file with these entries of the metadata, and of every tensor its name alone."""
    fields = [header.fields[key].stored for key in keys]
    start = _MAGIC + struct.pack("<IQQ", _VERSIONS[-1], len(header.tensors), len(fields)) + b"".join(fields)
    names = [name.encode() for name in header.tensors]
    table = b"".join(struct.pack(f"<Q{len(name)}sIQIQ", len(name), name, 1, 1, 0, 0) for name in names)
    whole = start + table
    return whole + bytes(-len(whole) % _STEP + _STEP)
