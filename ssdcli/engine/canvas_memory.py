"""What a causal language model has read of a prefix and of the canvas behind it, so that each token is read once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CanvasMemory:
    """What has been read of some rows: their prefix but for its last token, and from that token on what comes after it.

    The last token of a prefix, the anchor, is read with the tokens of the canvas, so that committing a block takes no
    pass of its own. The tensors are written in place. From the first token on that is another one, it is read again.

    cache: of the prefix, with spare columns for a canvas.
    tokens: those read from the anchor on, (b, 1 + L) int64; -1 where none was.
    states: hidden states after each, (b, 1 + L, H): the one at i predicts position i of the canvas.
    before: the hidden state that predicts the anchor, (b, H); of a prefix that was read with its anchor, anything.
    read: hidden states of the last tokens of a prompt, (b, n, H); none behind blocks that were written.
    """

    cache: Any
    tokens: Tensor
    states: Tensor
    before: Tensor
    read: Tensor | None = None

    @classmethod
    def of(cls, cache: Any, before: Tensor, length: int) -> CanvasMemory:
        """After a prefix of which all but the anchor was read, for canvases of this length; before: (b, H)."""
        tokens = torch.full((len(before), 1 + length), -1, dtype=torch.int64, device=before.device)
        return cls(cache, tokens, before.new_zeros(len(before), 1 + length, before.shape[1]), before)

    def keep(self, start: int, tokens: Tensor, states: Tensor) -> None:
        """Keep what was read from the anchor's place `start` on: tokens (b, n), states (b, n, H); nothing behind it."""
        end = start + tokens.shape[1]
        self.states[:, start:end] = states
        self.tokens[:, start:end] = tokens
        self.tokens[:, end:] = -1

    def shared(self, tokens: Tensor) -> int:
        """How many of these tokens (b, n), from the anchor on, have been read already in every row."""
        return int((self.tokens[:, : tokens.shape[1]] == tokens).all(0).long().cumprod(0).sum())

    def last_read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """How many of these tokens (b, n), from the anchor on, each row has read, (b,), and the state then, (b, H).

        Where it is none, the state is that of the token before the anchor.
        """
        count = (self.tokens[:, : tokens.shape[1]] == tokens).long().cumprod(1).sum(1)
        rows = torch.arange(len(tokens), device=tokens.device)
        state = self.states[rows, (count - 1).clamp(min=0)]
        return count, torch.where(count[:, None] > 0, state, self.before)

    def repeated(self, count: int) -> CanvasMemory:
        """The memory of one row, for so many rows of the same prefix."""
        cache = self.cache.for_rows(count).spaced(0)
        states = self.states.repeat(count, 1, 1)
        read = None if self.read is None else self.read.expand(count, -1, -1)
        return CanvasMemory(cache, self.tokens.repeat(count, 1), states, self.before.repeat(count, 1), read)
