"""Models with full attention, whose prefix sees the canvas: read anew at every step, or once a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.blocks import padding_mask
from ssdcli.engine.denoiser import Denoiser, Prefix
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.shift import preceding


class FullDenoiser(Denoiser):
    """A backbone with full attention, whose prefix sees the canvas: every step computes all of it."""

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: all."""
        return self.backbone.context

    def _remember(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> None:
        return None

    def _hidden(self, embedded: Tensor, prefix: Prefix) -> Tensor:
        length = embedded.shape[1]
        clean = self.backbone.embed(prefix.tokens).to(embedded.dtype)
        columns = torch.cat([clean, embedded], dim=1)
        positions = torch.cat([prefix.positions, prefix.canvas_positions(length)], dim=1)
        mask = padding_mask(prefix.real(length), columns.shape[1])
        hidden = self.backbone.encode(columns, positions, mask, None)
        return (preceding(hidden, positions) if self.backbone.shift else hidden)[:, -length:]

    def flops(self, length: int, seen: int) -> int:
        """Estimate the FLOPs of denoising one canvas once, together with its prefix of `seen` columns."""
        sizes = self.backbone.sizes
        return sizes.reading(seen + length, 0) + sizes.denoising(length, self.process)

    def flops_of_reading(self, columns: int, seen: int) -> int:
        """None: a prefix is read with its canvas."""
        return 0


class BlockCachedDenoiser(Denoiser):
    """A backbone with full attention whose prefix is read once a block, not at every step: an approximation.

    The prefix's keys and values are those of the block's beginning, when the canvas is pure noise (prefix cache of
    Fast-dLLM, Wu et al., 2025). A step then costs the canvas alone.
    """

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: all."""
        return self.backbone.context

    def _read(self, prefix: Prefix) -> Prefix:
        columns, length = prefix.tokens.shape[1], self.backbone.block_size
        known = self.backbone.embed(prefix.tokens)
        both = torch.cat([known, self._noise(len(known), length).to(known.dtype)], dim=1)
        positions = torch.cat([prefix.positions, prefix.canvas_positions(length)], dim=1)
        mask = padding_mask(prefix.real(length), columns + length)
        cache = self.backbone.extend(both, positions, mask, self.backbone.new_cache())
        return replace(prefix, cache=cache.first(columns))

    def _noise(self, rows: int, length: int) -> Tensor:
        """Canvases of pure noise, the same for every row: (rows, length, H)."""
        canvas = self.process.prior(length, CounterNoise([0] * rows, str(self.backbone.device)))
        level = torch.ones(rows, length, device=self.backbone.device) if self.process.timed else None
        return self.backbone.condition(self.process.embed(canvas, self.backbone), level, None)

    def _commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        grown = prefix.followed_by(tokens, self.backbone.reading_block)
        full = prefix.slides and grown.tokens.shape[1] > self.room
        return self._read(grown.last(self._half) if full else grown)

    def flops_of_reading(self, columns: int, seen: int) -> int:
        """Estimate the FLOPs of reading a prefix anew, with a canvas, after `columns` new tokens."""
        return self.backbone.sizes.reading(seen + columns + self.backbone.block_size, 0)
