"""A drafter that denoises a whole block at once behind what a causal language model has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.state_drafter import FAINT
from ssdcli.engine.sampling.race import Race


class BlockGuess(Protocol):
    """What predicts the hidden tokens of a block, given all that a model has read before it.

    size: the tokens of a block, of which the first are known.
    """

    size: int

    def has_read(self, cache: Any) -> bool:
        """Whether it knows the tokens of a model's cache."""

    def log_p(self, tokens: Tensor, positions: Tensor, cache: Any, seen: Tensor, places: Tensor) -> Tensor:
        """Log p at some places (b, n) of blocks: (b, n, V) float32.

        tokens: (b, size) int64, -1 for hidden ones. positions: theirs, (b, size). seen: how many columns of the cache
        stand before each block, (b,).
        """


@dataclass(frozen=True)
class BlockDrafter:
    """Drafts behind the last known token: it and those before it that the model has not read begin a block."""

    network: BlockGuess
    mask_id: int

    @torch.no_grad()
    def draft(self, canvas: Tensor, race: Race, count: int, prefix: tuple[Any, ...]) -> Draft:
        """The tokens that win the race by what the network believes of each; see `Drafter`."""
        tokens = canvas.new_full((len(canvas), count), -1)
        sure = torch.zeros(tokens.shape, device=canvas.device)
        for part in prefix:
            if self.network.has_read(part.cache.cache):
                drawn, p = self._draft(canvas[part.rows], race, count, part)
                tokens[part.rows, : drawn.shape[1]], sure[part.rows, : drawn.shape[1]] = drawn, p
        return Draft(tokens, sure)

    def _draft(self, canvas: Tensor, race: Race, count: int, part: Any) -> tuple[Tensor, Tensor]:
        """The draft of the rows of one prefix: (b, n) int64 and float32, n at most `count`."""
        known, length = (canvas != self.mask_id).long().cumprod(1).sum(1), canvas.shape[1]
        anchored = torch.cat([part.tokens[:, -1:], canvas], dim=1)
        anchored = torch.where(torch.arange(1 + length, device=canvas.device) <= known[:, None], anchored, -1)
        begin = torch.minimum(part.cache.last_read(anchored.masked_fill(anchored < 0, -2))[0], known)
        offsets = torch.arange(self.network.size, device=canvas.device)
        inside = begin[:, None] + offsets
        block = anchored.gather(1, inside.clamp(max=length)).masked_fill(inside > length, -1)
        first = known + 1 - begin  # of the block that is hidden
        columns = torch.arange(max(0, min(count, self.network.size - int(first.max()))), device=canvas.device)
        seen, positions = part.tokens.shape[1] - 1 + begin, part.canvas_positions(1) - 1 + inside
        log_p = self.network.log_p(block, positions, part.cache.cache, seen, first[:, None] + columns)
        places = known[:, None] + columns
        numbers = part.rows.repeat_interleave(len(columns)), places.clamp(max=length - 1).flatten()
        drawn = race.winners(log_p.flatten(0, 1), *numbers).view(places.shape)
        sure = log_p.gather(-1, drawn[..., None])[..., 0].exp()
        before = torch.cat([torch.ones_like(sure[:, :1]), sure[:, :-1]], dim=1).cumprod(1)
        return drawn.masked_fill((before <= FAINT) | (places >= length), -1), sure
