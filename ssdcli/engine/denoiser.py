"""One model as (canvas, t, prefix) -> log p(x0): what every ensemble and sampler is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.blocks import canvas_mask, prefix_mask, training_mask
from ssdcli.engine.process import Canvas, EmbeddingSpace, Process


class Backbone(EmbeddingSpace, Protocol):
    """A block-causal language model seen from the engine: any native architecture behind five calls."""

    block_size: int
    context: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def condition(self, embedded: Tensor, t: Tensor | None, heard: Tensor | None) -> Tensor:
        """Add the noise level t (B, L) and the previous prediction's embedding (B, L, H), where given."""
        ...

    def new_cache(self) -> Any:
        """An empty KV cache."""
        ...

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any | None) -> Tensor:
        """Run the body over (B, L, H) after the cache, which is left as it was; returns hidden states (B, L, H)."""
        ...

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Any:
        """The cache with (B, L, H) appended; the given one stays as it was."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the clean tokens: (B, L, V) float32, -inf for ids that are never text."""
        ...


def denoise_sequence(
    backbone: Backbone,
    embedded: Tensor,
    clean: Tensor,
    blocks: Tensor,
    t_and_heard: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """Denoise all blocks of clean sequences in one pass over [noised ; clean]: hidden states (B, T, H).

    embedded, clean: (B, T, H) embeddings of the noised and the clean tokens; blocks: (B, T) int64 block numbers;
    t_and_heard: the noise levels (B, T) and the previous prediction's embedding (B, T, H), where there are any.
    """
    length = clean.shape[1]
    noised = backbone.condition(embedded, *t_and_heard)
    both = torch.cat([noised, clean.to(noised.dtype)], dim=1)
    positions = torch.arange(length, device=clean.device).repeat(2)[None].expand(clean.shape[0], -1)
    return backbone.encode(both, positions, training_mask(blocks), None)[:, :length]


@dataclass(frozen=True)
class Prefix:
    """Committed text of a batch: tokens (B, P) int64 padded on the left, lengths (B,) int64, and their KV cache."""

    tokens: Tensor
    lengths: Tensor
    cache: Any


class Denoiser:
    """A backbone and its noise process."""

    def __init__(self, backbone: Backbone, process: Process) -> None:
        """Wrap a backbone; prefixes live on its device."""
        self.backbone = backbone
        self.process = process

    @property
    def room(self) -> int:
        """The longest prefix, in tokens, that leaves space for a canvas."""
        return self.backbone.context - self.backbone.block_size

    def start(self, rows: Sequence[Sequence[int]]) -> Prefix:
        """Read the prompts (none empty), each cut from the left to the room there is."""
        kept, device = [list(row)[-self.room :] for row in rows], self.backbone.device
        longest = max(len(row) for row in kept)
        tokens = torch.tensor([[0] * (longest - len(row)) + row for row in kept], device=device)
        return self._prefill(tokens, torch.tensor([len(row) for row in kept], device=device))

    def _prefill(self, tokens: Tensor, lengths: Tensor) -> Prefix:
        """Run the prefix once, block-causally, with the block grid anchored at its end."""
        length = tokens.shape[1]
        mask = prefix_mask(length, self.backbone.block_size, lengths)
        positions = self._positions(length, 0, lengths, length)
        cache = self.backbone.extend(self.backbone.embed(tokens), positions, mask, self.backbone.new_cache())
        return Prefix(tokens, lengths, cache)

    @staticmethod
    def _positions(count: int, start: int, lengths: Tensor, prefix: int) -> Tensor:
        """Position ids (B, count) from column `start` on, counted from each row's first real token."""
        columns = torch.arange(start, start + count, device=lengths.device)
        return (columns[None, :] - (prefix - lengths)[:, None]).clamp(min=0)

    def denoise(self, canvas: Canvas, t: float, heard: Tensor | None, prefix: Prefix) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32.

        heard: log p (B, L, V) of the previous step, or None when there is none (self-conditioning).
        """
        process, backbone = self.process, self.backbone
        embedded = process.embed(canvas, backbone)
        length, width = embedded.shape[1], prefix.tokens.shape[1]
        level = torch.full(embedded.shape[:2], t, device=embedded.device) if process.timed else None
        echo = backbone.embed_mixture(heard.exp()) if process.hears_itself and heard is not None else None
        embedded = backbone.condition(embedded, level, echo)
        mask = canvas_mask(width, length, prefix.lengths)
        positions = self._positions(length, width, prefix.lengths, width)
        return torch.log_softmax(backbone.logits(backbone.encode(embedded, positions, mask, prefix.cache)), dim=-1)

    def commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        """Append a clean block (B, L) to the prefix; a full window is re-read from the later half of its text."""
        width = prefix.tokens.shape[1]
        grown = torch.cat([prefix.tokens, tokens], dim=1)
        lengths = prefix.lengths + tokens.shape[1]
        if grown.shape[1] > self.room:
            lengths = torch.where(lengths > self.room, max(self.room // 2, 1), lengths)
            return self._prefill(grown[:, -int(lengths.max()) :], lengths)
        mask = canvas_mask(width, tokens.shape[1], prefix.lengths)
        positions = self._positions(tokens.shape[1], width, prefix.lengths, width)
        cache = self.backbone.extend(self.backbone.embed(tokens), positions, mask, prefix.cache)
        return Prefix(grown, lengths, cache)
