"""Shifted models, as causal language models are: the hidden state of one token predicts the next.

Each function here finds, for the columns that are to be predicted, the columns before them in the text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.engine.packed import Packed


def preceding(hidden: Tensor, positions: Tensor) -> Tensor:
    """The hidden states (B, L, H) of the columns before each in the text, whatever their order; of the first, its own.

    Columns need not be in the order of the text: around a gap, those to its right are read before the canvas. Sorting
    by position gives the text's order, and the argsort of an order gives each column its rank in it.
    """
    order = positions.argsort(dim=1, stable=True)
    before = order.gather(1, (order.argsort(dim=1) - 1).clamp(min=0))
    return hidden.gather(1, before[..., None].expand_as(hidden))


def following(hidden: Tensor, positions: Tensor, tail: tuple[Tensor, Tensor]) -> Tensor:
    """The hidden states before each column of a canvas (B, L, H).

    Within the canvas that is the column on the left; the first column's is the last one of the prefix.

    tail: hidden states (B, n, H) and positions (B, n) of the columns that were read last.
    """
    return torch.cat([_at(tail, positions[:, :1] - 1), hidden[:, :-1]], dim=1)


def _at(read: tuple[Tensor, Tensor], position: Tensor) -> Tensor:
    """The hidden states (B, 1, H) of the columns at a position (B, 1)."""
    hidden, positions = read
    # Padding has position 0, too, and comes before the text: so the last column at a position is the one wanted.
    last = ((positions == position) * torch.arange(1, positions.shape[1] + 1, device=positions.device)).argmax(1)
    return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2]))


def predicting(hidden: Tensor, packed: Packed) -> Tensor:
    """Of the hidden states of [noised ; clean] (B, 2T, H) those that predict the noised tokens: (B, T, H).

    They are the ones that there are when the text is written block by block: of the noised column before it in its
    block; for the first column of a block, of the clean column before it; its own where nothing was read before it.
    """
    before = (packed.texts[:, :, None] == packed.texts[:, None, :]) & (
        packed.positions[:, :, None] - 1 == packed.positions[:, None, :]
    )
    query, key = packed.blocks[:, :, None], packed.blocks[:, None, :]
    sources = torch.cat([before & (query == key), before & (key < query) & packed.known[:, None, :]], dim=2)
    own = torch.arange(packed.length, device=hidden.device)
    column = torch.where(sources.any(2), sources.int().argmax(2), own)
    return hidden.gather(1, column[..., None].expand(-1, -1, hidden.shape[2]))
