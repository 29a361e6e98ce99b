"""A drafter that denoises a whole block at once behind what a causal language model has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.state_drafter import FAINT
from ssdcli.engine.sampling.race import Race

_TOGETHER = 4  # tokens that are drawn before it is asked whether more are worth it


class BlockGuess(Protocol):
    """What predicts the hidden tokens of a block, given all that a model has read before it.

    size: the tokens of a block, of which the first are known.
    """

    size: int

    def has_read(self, cache: Any) -> bool:
        """Whether it knows the tokens of a model's cache."""

    def states(self, tokens: Tensor, positions: Tensor, cache: Any, seen: Tensor) -> Tensor:
        """What predicts each token of blocks: (b, size, H).

        tokens: (b, size) int64, -1 for hidden ones. positions: theirs, (b, size). seen: how many columns of the cache
        stand before each block, (b,).
        """

    def log_p(self, states: Tensor) -> Tensor:
        """Log p by some of these states: (b, n, V) float32."""


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
                tokens[part.rows], sure[part.rows] = self._draft(canvas[part.rows], race, count, part)
        return Draft(tokens, sure)

    def _draft(self, canvas: Tensor, race: Race, count: int, part: Any) -> tuple[Tensor, Tensor]:
        """The draft of the rows of one prefix: (b, count) int64 and float32."""
        known, length = (canvas != self.mask_id).long().cumprod(1).sum(1), canvas.shape[1]
        anchored = torch.cat([part.tokens[:, -1:], canvas], dim=1)
        anchored = torch.where(torch.arange(1 + length, device=canvas.device) <= known[:, None], anchored, -1)
        begin = torch.minimum(part.cache.last_read(anchored.masked_fill(anchored < 0, -2))[0], known)
        offsets = torch.arange(self.network.size, device=canvas.device)
        inside = begin[:, None] + offsets
        block = anchored.gather(1, inside.clamp(max=length)).masked_fill(inside > length, -1)
        seen, positions = part.tokens.shape[1] - 1 + begin, part.canvas_positions(1) - 1 + inside
        states = self.network.states(block, positions, part.cache.cache, seen)
        first = known + 1 - begin  # of the block that is hidden
        drawn, sure = canvas.new_full((len(canvas), count), -1), torch.zeros(len(canvas), count, device=canvas.device)
        chance = torch.ones(len(canvas), 1, device=canvas.device)
        room = min(count, self.network.size - int(first.max()))
        for start in range(0, room, _TOGETHER):
            columns = torch.arange(start, min(start + _TOGETHER, room), device=canvas.device)
            places = known[:, None] + columns
            chosen = states.gather(1, (first[:, None] + columns)[..., None].expand(-1, -1, states.shape[-1]))
            tokens, p = self._drawn(chosen, race, part.rows, places.clamp(max=length - 1))
            reached = torch.cat([chance, p], dim=1).cumprod(1)
            useless = (reached[:, :-1] <= FAINT) | (places >= length)
            drawn[:, columns], sure[:, columns] = tokens.masked_fill(useless, -1), p
            chance = reached[:, -1:]
            if bool((chance <= FAINT).all()):
                break
        return drawn, sure

    def _drawn(self, states: Tensor, race: Race, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (b, n) that win at places (b, n) of the rows by states (b, n, H), and how likely each is."""
        log_p = self.network.log_p(states)
        numbers = rows.repeat_interleave(places.shape[1]), places.flatten()
        tokens = race.winners(log_p.flatten(0, 1), *numbers).view(places.shape)
        return tokens, log_p.gather(-1, tokens[..., None])[..., 0].exp()
