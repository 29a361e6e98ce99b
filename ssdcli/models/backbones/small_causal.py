"""A small causal language model, made here: the body and the embeddings of a block-diffusion model, read from the left.

It is the causal twin of `BlockDiffusionLM`, for causal cores whose hidden states cannot be read. Each token of a text
teaches it in every step, and it needs no canvas.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.backbones.cache import PrefixCache


class SmallCausalLM(BlockDiffusionLM):
    """Predicts log p of the next token; implements the engine's CausalBackbone."""

    def __init__(self, config: BackboneConfig) -> None:
        """Build with random weights."""
        super().__init__(config)
        self.reading_block, self.shift = 1, True

    def write(self, embedded: Tensor, positions: Tensor, cache: PrefixCache, count: int) -> Tensor:
        """Run the body over (B, w, H) after the first `count` columns of a spaced cache, into which it writes."""
        return self._run(embedded, positions, None, cache.after(count))

    def write_each(self, parts: Sequence[tuple[Tensor, Tensor, PrefixCache, int]]) -> list[Tensor]:
        """The same for rows with caches of their own."""
        return [self.write(*part) for part in parts]

    def logits(self, hidden: Tensor) -> Tensor:
        """As a block-diffusion model's, of states in any precision."""
        return super().logits(hidden.to(self.table.dtype))

    def _run(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: PrefixCache | None) -> Tensor:
        if mask is None:
            count, past = embedded.shape[1], 0 if cache is None else cache.columns
            mask = torch.ones(1, 1, count, past + count, dtype=torch.bool, device=embedded.device).tril(past)
            mask = mask.expand(len(embedded), -1, -1, -1)
        return super()._run(embedded, positions, mask, cache)


def new_network(config: BackboneConfig) -> BlockDiffusionLM:
    """A model of a configuration, with random weights."""
    return SmallCausalLM(config) if config.causal else BlockDiffusionLM(config)
