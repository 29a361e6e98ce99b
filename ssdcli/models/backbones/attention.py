"""Attention that skips what a mask hides, which in packed texts is most of all pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

VISIBLE = "visible"  # its name among transformers' attention functions

_QUERIES = 128  # fewer would hide more keys from a whole chunk, but make the products too small to be fast


@dataclass(frozen=True)
class Chunk:
    """Neighbouring queries of one row, and the columns that any of them sees.

    row: of the batch.
    queries: their positions.
    runs: ranges of columns, K in all.
    bias: (queries, K), 0 for what a query sees and -inf for what it does not.
    """

    row: int
    queries: slice
    runs: tuple[slice, ...]
    bias: Tensor

    def take(self, columns: Tensor) -> Tensor:
        """Gather the visible columns of (B, H, L, d): (H, K, d)."""
        return torch.cat([columns[self.row, :, run] for run in self.runs], dim=1)

    def give(self, total: Tensor, part: Tensor) -> None:
        """Add (H, K, d) to the visible columns of (B, H, L, d); the transpose of `take`."""
        sizes = [run.stop - run.start for run in self.runs]
        for run, piece in zip(self.runs, part.split(sizes, dim=1), strict=True):
            total[self.row, :, run] += piece


def is_worth_cutting(mask: Tensor) -> bool:
    """Whether a mask (B, 1, L, L) makes several chunks; on a GPU, everything at once is no slower."""
    return mask.device.type == "cpu" and mask.shape[2] > _QUERIES


def chunks_of(mask: Tensor, dtype: torch.dtype) -> tuple[Chunk, ...]:
    """Cut a mask (B, 1, L, L) bool, in which every query sees something, into chunks for states of this dtype.

    Under autocast, its dtype is used instead.
    """
    kind = mask.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    starts = range(0, mask.shape[2], _QUERIES)
    return tuple(_chunk(row, slice(i, i + _QUERIES), mask, dtype) for row in range(mask.shape[0]) for i in starts)


def _chunk(row: int, queries: slice, mask: Tensor, dtype: torch.dtype) -> Chunk:
    sees = mask[row, 0, queries]
    runs = _runs(sees.any(0))
    hidden = torch.cat([sees[:, run] for run in runs], dim=1).logical_not_()
    bias = torch.zeros(hidden.shape, dtype=dtype, device=mask.device).masked_fill_(hidden, -math.inf)
    return Chunk(row, queries, runs, bias)


def _runs(seen: Tensor) -> tuple[slice, ...]:
    """The ranges of true values in (L,) bool."""
    edges = nn.functional.pad(seen.int(), (1, 1)).diff().nonzero().squeeze(1).tolist()
    return tuple(slice(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True))


class _Attention(torch.autograd.Function):
    """Softmax attention chunk by chunk; the probabilities are kept for the backward pass.

    With S = Q K^T + bias, P = softmax(S) by rows and O = P V, the gradients are dV = P^T dO,
    dS = P * (dP - rowsum(P * dP)) where dP = dO V^T, dQ = dS K and dK = dS^T Q.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, chunks: tuple[Chunk, ...]) -> Tensor:
        """Scaled queries, keys and values (B, H, L, d) to (B, L, H, d)."""
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        seen = []
        for chunk in chunks:
            scores = torch.baddbmm(chunk.bias, query[chunk.row, :, chunk.queries], chunk.take(key).transpose(1, 2))
            seen.append(scores.softmax(-1))
            out[chunk.row, chunk.queries] = torch.bmm(seen[-1], chunk.take(value)).transpose(0, 1)
        ctx.chunks = chunks
        ctx.save_for_backward(query, key, value, *seen)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of queries, keys and values, the last two summed in float32."""
        query, key, value, *seen = ctx.saved_tensors
        by_query = torch.empty_like(query)
        # Several chunks add to the same column, in bfloat16 with too much rounding.
        by_key, by_value = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (key, value))
        for chunk, p in zip(ctx.chunks, seen, strict=True):
            grad = grads[0][chunk.row, chunk.queries].transpose(0, 1)
            chunk.give(by_value, p.transpose(1, 2) @ grad)
            by_score = torch._softmax_backward_data(grad @ chunk.take(value).transpose(1, 2), p, -1, p.dtype)
            by_query[chunk.row, :, chunk.queries] = by_score @ chunk.take(key)
            chunk.give(by_key, by_score.transpose(1, 2) @ query[chunk.row, :, chunk.queries])
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), None


def visible_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    chunks: tuple[Chunk, ...] | None = None,
    **native: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: chunk by chunk if the mask was cut, else PyTorch's own."""
    if chunks is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **native)
    dtype, groups = chunks[0].bias.dtype, query.shape[1] // key.shape[1]
    key, value = (repeat_kv(x.to(dtype), groups).contiguous() for x in (key, value))
    query = (query * native["scaling"]).to(dtype).contiguous()
    return _Attention.apply(query, key, value, chunks), None  # type: ignore[no-untyped-call]


AttentionInterface.register(VISIBLE, visible_attention)
