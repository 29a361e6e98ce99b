"""Attention masks of block-causal models: a block sees all of itself, and the clean blocks before it."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.packed import Packed
from ssdcli.engine.prompt import PADDING


def block_levels(blocks: Tensor, noise: Noise) -> Tensor:
    """One noise level a block, low-discrepancy within a sequence: blocks (B, T) int64 to t (B, T) in (0, 1).

    The levels of a sequence's n blocks are (u + k) / n, k = 0..n-1, in random order: each is uniform, and together they
    cover the unit interval evenly, which lowers the variance of the loss (Kingma et al., "Variational diffusion
    models", 2021).
    """
    count = blocks.amax(1, keepdim=True) + 1
    places = torch.arange(blocks.shape[1], device=blocks.device)
    # The same number of draws for any number of blocks: a sample's noise must not depend on its batch.
    draws = noise.uniform(len(places)).masked_fill(places >= count, 2)
    levels = (draws.argsort(dim=1).argsort(dim=1) + noise.uniform(1)) / count
    return levels.gather(1, blocks)


def training_mask(packed: Packed) -> Tensor:
    """Attention mask over [noised ; clean], both (B, T): (B, 1, 2T, 2T) bool.

    A noised block sees itself and the clean blocks before it in its text; a clean block sees itself and those before it
    (Arriola et al., "Block diffusion", 2025). So one pass trains all blocks, each after the clean text that it will
    have when it is written. A clean column that is not known is seen by itself alone, so that no row of the softmax is
    empty.
    """
    own_text = packed.texts[:, :, None] == packed.texts[:, None, :]
    query, key = packed.blocks[:, :, None], packed.blocks[:, None, :]
    same, before = own_text & (query == key), own_text & (key < query) & packed.known[:, None, :]
    itself = torch.eye(packed.length, dtype=torch.bool, device=same.device)
    noised = torch.cat([same, before], dim=2)
    clean = torch.cat([torch.zeros_like(same), before | (same & packed.known[:, None, :]) | itself], dim=2)
    return torch.cat([noised, clean], dim=1)[:, None]


def prefix_mask(ranks: Tensor, queries: int | None = None) -> Tensor:
    """Attention mask over prefixes: ranks (B, P) int64, the order in which blocks are read, to (B, 1, P, P) bool.

    A token sees all of its own block and of those of lower rank. Padding has rank PADDING and sees itself alone, so
    that no row of the softmax is empty. queries: how many rows of the mask are returned, from the end.
    """
    width = ranks.shape[1]
    first = 0 if queries is None else width - queries
    sees = (ranks[:, None, :] <= ranks[:, first:, None]) & (ranks != PADDING)[:, None, :]
    itself = torch.eye(width, dtype=torch.bool, device=ranks.device)[first:]
    return (sees | itself)[:, None]


def padding_mask(real: Tensor, queries: int) -> Tensor:
    """A mask by which queries see all but padding: real (B, K) bool, false for padding, to (B, 1, queries, K) bool."""
    return real[:, None, None, :].expand(-1, 1, queries, -1)
