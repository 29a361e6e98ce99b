"""Texts denoised by a model that has read them before, as private context."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.engine.blocks import training_mask
from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.packed import Packed
from ssdcli.engine.shift import predicting


def denoise_in_context(
    backbone: Backbone, embedded: Tensor, packed: Packed, level: Tensor | None, separator: tuple[int, int]
) -> Tensor:
    """Denoise all blocks of packed texts in one pass over [noised ; clean ; context]: hidden states (B, T, H).

    Each text stands behind itself, of which it sees as much of the end as leaves it room in the model's window.
    embedded: (B, T, H) embeddings of the noised tokens; level: their noise levels (B, T). separator: the id that opens
    a document, and the one that stands between context and text in its place.
    """
    opening, between = separator
    noised = backbone.condition(embedded, level, None)
    opens = (packed.positions == 0) & (packed.tokens == opening)
    tokens = torch.cat([packed.tokens.masked_fill(opens, between), packed.tokens], dim=1)
    columns = torch.cat([noised, backbone.embed(tokens).to(noised.dtype)], dim=1)
    lengths = text_lengths(packed)
    kept = torch.minimum(lengths, (backbone.context - lengths).clamp(min=0))
    dropped = lengths - kept
    seen = packed.known & (packed.positions >= dropped)
    behind, before = packed.positions + kept, (packed.positions - dropped).clamp(min=0)
    positions = torch.cat([behind, behind, before], dim=1)
    mask = context_mask(packed, seen, backbone.reading_block)
    hidden = backbone.encode(columns, positions, mask, None)[:, : 2 * packed.length]
    return predicting(hidden, packed) if backbone.shift else hidden[:, : packed.length]


def text_lengths(packed: Packed) -> Tensor:
    """How many tokens the text of each column has that are read as clean ones: (B, T) int64."""
    ends = (packed.positions + 1) * packed.known
    return torch.zeros_like(ends).scatter_reduce(1, packed.texts, ends, "amax").gather(1, packed.texts)


def context_mask(packed: Packed, seen: Tensor, block: int) -> Tensor:
    """Who sees whom in [noised ; clean ; context], each (B, T): (B, 1, 3T, 3T) bool.

    The first two see each other as without context, and all of their own text's context; this is read block by block.
    seen: (B, T) bool, the columns of the context that there are.
    """
    own_text = packed.texts[:, :, None] == packed.texts[:, None, :]
    told = own_text & seen[:, None, :]
    order = packed.positions // block
    itself = torch.eye(packed.length, dtype=torch.bool, device=seen.device)
    reading = (told & (order[:, None, :] <= order[:, :, None])) | itself  # no row of the softmax is empty
    texts = torch.cat([training_mask(packed)[:, 0], told.repeat(1, 2, 1)], dim=2)
    contexts = torch.cat([torch.zeros_like(told).repeat(1, 1, 2), reading], dim=2)
    return torch.cat([texts, contexts], dim=1)[:, None]
