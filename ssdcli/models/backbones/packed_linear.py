"""Linear layers for a CPU, their weights laid out once as its matrix products read them.

A pass over a few tokens takes as long as reading the weights, so that fewer bits are faster. What is packed computes in
bfloat16; a CPU that does not multiply it natively multiplies many tokens in float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional

from ssdcli.machine.hardware import has_fast_bf16

GROUP = 32  # neighbouring numbers of a row that share a scale and an offset in 4 bits, as in GGUF's Q4_0 and Q4_1
TOGETHER = 32  # tokens of several rows at most that share a pass
_LEVELS = 15  # between the least and the greatest number of a group
_PACKED_ROWS = 128  # of a matrix, packed at a time in the processor's cache; a multiple of the kernel's blocks of 64
_WIDENED_ROWS = 512  # of a matrix, likewise, where it is turned into 32 bits
_PACKED_NUMBERS = 1 << 17  # of a narrow matrix, packed at a time in 8 bits
_EIGHTS = 16  # the kernel of 8 bits adds up a multiple of so many numbers
_ROWS = 16  # of a weight that show whether all lie on a grid of 4 bits
FEW = 8  # tokens of a row up to which 4 bits are read faster than more bits are multiplied
_NEAR = 0.004  # the relative error of numbers that 4 bits hold as well as 16 do: bfloat16's own is 0.0017
_NAMES = {"silu": ("swish", ""), "gelu_pytorch_tanh": ("gelu", "tanh"), "gelu": ("gelu", "none")}  # oneDNN's


@dataclass(frozen=True)
class Update:
    """What an adapter adds to a weight (Hu et al., 2021): W + U D.

    down: D, (r, in). up: U, (out, r). Both in float32.
    """

    down: Tensor
    up: Tensor

    @classmethod
    def beside(cls, updates: Sequence[Update | None], heights: Sequence[int]) -> Update | None:
        """That of layers of the same input as one, of so many outputs each; None where none has one."""
        downs = [one.down for one in updates if one is not None]
        if not downs:
            return None
        ups = [torch.zeros(rows, 0) if one is None else one.up for one, rows in zip(updates, heights, strict=True)]
        return cls(torch.cat(downs), torch.block_diag(*ups))

    def added_to(self, weight: Tensor) -> Tensor:
        """W + U D for a weight (out, in), in float32."""
        return weight.float().addmm(self.up, self.down)


@dataclass(frozen=True)
class Matrix:
    """What a linear layer is packed from.

    parts: its weight, or those of layers of the same input, whose outputs lie side by side: (out, in) each.
    bias: (out,), of all of them.
    update: what an adapter adds to the weight.
    in_4_bits: packs the weight itself in 4 bits, as `packed_in_4_bits` does.
    """

    parts: Sequence[Tensor]
    bias: Tensor | None = None
    update: Update | None = None
    in_4_bits: Callable[[Matrix], FourBits] | None = None

    @property
    def weight(self) -> Tensor:
        """The whole weight: (out, in)."""
        return self.parts[0] if len(self.parts) == 1 else torch.cat(list(self.parts))

    @property
    def updated(self) -> Tensor:
        """The weight with what an adapter adds to it."""
        return self.weight if self.update is None else self.update.added_to(self.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return sum(map(len, self.parts)), self.parts[0].shape[1]


FourBits = tuple[Tensor, Tensor]  # as the kernel reads them: levels, and for each group a scale and an offset
Pack = Callable[[Matrix], "PackedLinear"]


class PackedLinear(ABC):
    """y = x W^T + b for x (B, n, in), and what often follows."""

    @property
    def kind(self) -> tuple[type, ...]:
        """What decides how it computes, beside its shape."""
        return (type(self),)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """An activation of y, one of `packable.ACTIVATIONS`."""
        y = self(x)
        if activation == "silu":
            return functional.silu(y, inplace=True)
        return functional.gelu(y, approximate=_NAMES[activation][1])

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product y * other."""
        return self(x).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The sum y + other."""
        return self(x).add_(other)

    def is_same_beside(self, width: int, dtype: torch.dtype) -> bool:
        """Whether a row of (B, 1, in) comes out bit for bit as alone, found out by up to TOGETHER others beside it.

        oneDNN chooses among its kernels by the shapes, and some of them add up in another order.
        """
        x = torch.randn(TOGETHER, 1, width, generator=torch.Generator().manual_seed(0)).to(dtype)
        some = range(0, TOGETHER, 5)
        alone = torch.cat([self(x[place : place + 1]) for place in some])
        return torch.equal(self(x)[some], alone) and torch.equal(self(x[:2])[:1], alone[:1])


class PlainLinear(PackedLinear):
    """As torch has it, in the weights' own dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: (out, in); bias: (out,)."""
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        return functional.linear(x, self._weight, self._bias)


class WideLinear(PackedLinear):
    """In 16 bits, for a CPU that multiplies in 32, to which some rows at a time are widened in its cache.

    Up to `few` tokens are multiplied in 16 bits one by one, so that each is bit for bit what it is alone.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, few: int = 1) -> None:
        """weight: (out, in); bias: (out,)."""
        self._weight, self._bias, self._few = weight.bfloat16(), _short(bias), few

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        if 0 < x.shape[0] * x.shape[1] <= self._few:
            tokens = x.reshape(-1, 1, x.shape[-1])
            return torch.cat([functional.linear(one, self._weight, self._bias) for one in tokens]).view(
                *x.shape[:2], -1
            )
        wide = x.float()
        y = torch.cat([functional.linear(wide, rows.float()) for rows in self._weight.split(_WIDENED_ROWS)], dim=-1)
        return (y if self._bias is None else y.add_(self._bias)).bfloat16()

    def is_same_beside(self, width: int, dtype: torch.dtype) -> bool:
        """Whether so many are multiplied one by one."""
        return self._few >= TOGETHER


class OneDnnLinear(PackedLinear):
    """By oneDNN, which rounds to bfloat16 only after what follows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: (out, in); bias: (out,)."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16().contiguous(), 1)
        self._bias = _short(bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        return self._unary(x, "none", "")

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """An activation of y."""
        return self._unary(x, *_NAMES[activation])

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product y * other."""
        return self._binary(x, other, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The sum y + other."""
        return self._binary(x, other, "add")

    def _unary(self, x: Tensor, name: str, algorithm: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, name, [], algorithm)
        return y

    def _binary(self, x: Tensor, other: Tensor, name: str) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, name)
        return y


class Int8Packed(PackedLinear):
    """W in 8 bits, with a scale for each of its rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: (out, in); bias: (out,)."""
        least, together = torch.finfo(torch.float32).tiny, max(_PACKED_ROWS, _PACKED_NUMBERS // weight.shape[1])
        self._weight = torch.empty(weight.shape, dtype=torch.int8)
        self._scale, self._bias = torch.empty(len(weight), dtype=torch.bfloat16), _short(bias)
        parts = (of.split(together) for of in (weight, self._weight, self._scale))
        for part, packed, scales in zip(*parts, strict=True):
            rows = part.float()
            scale = rows.abs().amax(1, keepdim=True).clamp_(min=least) / 127
            packed.copy_((rows / scale).round_())
            scales.copy_(scale[:, 0])

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        return _shaped(self.product(x.reshape(-1, x.shape[-1])), x, self._bias)

    def product(self, x: Tensor) -> Tensor:
        """X W^T alone: (N, in) to (N, out)."""
        return torch._weight_int8pack_mm(x, self._weight, self._scale)


def packed_in_4_bits(matrix: Matrix) -> FourBits:
    """The weight (out, in) in 4 bits; `in` must be a multiple of GROUP, `out` one of 16."""
    packed, pairs = [], []
    for rows in matrix.weight.split(_PACKED_ROWS):
        grid = Grid.of(rows)
        packed.append(torch._convert_weight_to_int4pack_for_cpu(grid.levels.view(rows.shape).int(), 1))
        middle = grid.least + (_LEVELS + 1) // 2 * grid.step  # the kernel's offset is that of level 8
        pairs.append(torch.cat([grid.step, middle], dim=-1))  # (rows, in / GROUP, 2)
    return torch.cat(packed), torch.cat(pairs).transpose(0, 1).contiguous().bfloat16()


class Int4Packed(PackedLinear):
    """W in 4 bits, with a scale and an offset for each GROUP of neighbours in a row."""

    def __init__(self, matrix: Matrix) -> None:
        """Without the matrix's update."""
        self._weight, self._scales = (matrix.in_4_bits or packed_in_4_bits)(matrix)
        self._bias = _short(matrix.bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        return _shaped(self.product(x.reshape(-1, x.shape[-1])), x, self._bias)

    def product(self, x: Tensor) -> Tensor:
        """X W^T alone: (N, in) to (N, out)."""
        return torch._weight_int4pack_mm_for_cpu(x, self._weight, GROUP, self._scales)

    @staticmethod
    def holds(matrix: Matrix) -> bool:
        """Whether the kernel takes a matrix of this shape."""
        height, width = matrix.shape
        return height % 16 == 0 and width % GROUP == 0


class Adapted(Int4Packed):
    """A layer in 4 bits and the update of an adapter apart, since the sum of both lies on no grid of 4 bits.

    The update is in 8 bits, whose kernel takes a few microseconds, where oneDNN takes fifteen to begin.
    """

    def __init__(self, matrix: Matrix, update: Update) -> None:
        """update: the matrix's."""
        super().__init__(matrix)
        rank = -len(update.down) % _EIGHTS
        self._down = Int8Packed(functional.pad(update.down, (0, 0, 0, rank)), None)
        self._up = Int8Packed(functional.pad(update.up, (0, rank)), None)

    def product(self, x: Tensor) -> Tensor:
        """X (W + U D)^T alone: (N, in) to (N, out)."""
        return super().product(x).add_(self._up.product(self._down.product(x)))


class ByLength(PackedLinear):
    """Weights that 4 bits hold as well as 16 do, in both: 4 are read for x (B, n, in) of up to FEW tokens a row."""

    def __init__(self, matrix: Matrix) -> None:
        """Pack it in 4 bits now, and in 16 when a longer pass first reads them."""
        self._few, self._matrix = pack_int4(matrix), matrix

    @property
    def kind(self) -> tuple[type, ...]:
        """With what reads few tokens."""
        return (type(self), *self._few.kind)

    @cached_property
    def _many(self) -> PackedLinear:
        many = pack_bfloat16(self._matrix)
        del self._matrix  # and with the last one the file that all are read from
        return many

    def __call__(self, x: Tensor) -> Tensor:
        """(B, n, in) to (B, n, out)."""
        return self._for(x)(x)

    def activated(self, x: Tensor, activation: str) -> Tensor:
        """An activation of y."""
        return self._for(x).activated(x, activation)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product y * other."""
        return self._for(x).times(x, other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The sum y + other."""
        return self._for(x).plus(x, other)

    def _for(self, x: Tensor) -> PackedLinear:
        return self._few if x.shape[1] <= FEW else self._many


@dataclass(frozen=True)
class Grid:
    """The nearest numbers of 4 bits: least + step * levels.

    least, step: (out, in / GROUP, 1) float32.
    levels: whole numbers from 0 to 15, (out, in / GROUP, GROUP) float32.
    """

    least: Tensor
    step: Tensor
    levels: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Grid:
        """For weights (out, in), by each group's extremes, which are the ends of a grid that they came from."""
        groups = weight.float().view(len(weight), -1, GROUP)
        least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)  # aminmax takes four times as long
        step = ((most - least) / _LEVELS).clamp_(min=torch.finfo(torch.float32).tiny)
        return cls(least, step, (groups - least).mul_(1 / step).round_())

    def error(self, weight: Tensor) -> float:
        """The relative error of these numbers in place of the weights (out, in)."""
        away = torch.addcmul(self.least, self.levels, self.step).view(weight.shape) - weight.float()
        return float(away.norm() / weight.float().norm().clamp(min=torch.finfo(torch.float32).tiny))


def pack_bfloat16(matrix: Matrix, few: int = 1) -> PackedLinear:
    """In 16 bits, as is fast on this CPU; few: as `WideLinear` takes it."""
    return (OneDnnLinear if has_fast_bf16() else partial(WideLinear, few=few))(matrix.updated, matrix.bias)


pack_alike = partial(pack_bfloat16, few=TOGETHER)  # for tokens that should be what each is alone, as far as can be


def pack_int8(matrix: Matrix) -> PackedLinear:
    """In 8 bits, or in 16 where the kernel does not take the shape: it would read beyond the rows."""
    if matrix.shape[1] % _EIGHTS:
        return pack_bfloat16(matrix)
    return Int8Packed(matrix.updated, matrix.bias)


def pack_int4(matrix: Matrix) -> PackedLinear:
    """In 4 bits, or in 16 where the kernel does not take the shape."""
    if not Int4Packed.holds(matrix):
        return pack_bfloat16(matrix)
    return Int4Packed(matrix) if matrix.update is None else Adapted(matrix, matrix.update)


def pack_by_length(matrix: Matrix) -> PackedLinear:
    """As pack_bfloat16, and in 4 bits beside it for short passes where these hold the weights, as those of a GGUF."""
    rows = torch.cat([part[:_ROWS] for part in matrix.parts])
    if not Int4Packed.holds(matrix) or Grid.of(rows).error(rows) > _NEAR:
        return pack_bfloat16(matrix)
    return ByLength(matrix)


@dataclass(frozen=True)
class Packing:
    """How a model's linear layers are packed.

    layers: those of its layers, each with what an adapter adds to it.
    head: the one that scores tokens.
    dtype: of all else, and of states.
    """

    layers: Pack
    head: Pack = pack_alike
    dtype: torch.dtype = torch.bfloat16


IN_16_BITS = Packing(pack_bfloat16)
PACKINGS: Mapping[str, Packing] = {  # by the dtype of the weights
    "bfloat16": Packing(pack_by_length),
    "int8": Packing(pack_int8),
    "int4": Packing(pack_int4),
}


def _short(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.bfloat16()


def _shaped(y: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """With its bias, what (B * n, out) is for x (B, n, in): (B, n, out)."""
    return (y if bias is None else y.add_(bias)).view(x.shape[0], x.shape[1], y.shape[-1])
