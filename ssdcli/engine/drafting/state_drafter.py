"""A drafter that goes on from the hidden states of a causal language model, as far as that has read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.sampling.race import Race

FAINT = 0.15  # a draft ends where it is less likely than this to be drawn as far as there

_LIKELY = 64  # of its tokens take part in the race


class StatesGuess(Protocol):
    """What guesses behind tokens that a model has not read.

    ids: those that it can draft, (n,) int64.
    """

    ids: Tensor

    def begin(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The guess (N, H) behind tokens (N,) int64 that follow the ones with these states (N, D)."""

    def step(self, guess: Tensor, tokens: Tensor) -> Tensor:
        """The guess (N, H) behind one more token (N,) int64."""

    def log_p(self, guess: Tensor) -> Tensor:
        """Log p of its ids as the next token: (N, n) float32."""


@dataclass(frozen=True)
class StateDrafter:
    """Drafts what follows the last token, which the model has not read, from the model's state at the one before it."""

    network: StatesGuess
    mask_id: int

    @torch.no_grad()
    def draft(self, canvas: Tensor, race: Race, count: int, prefix: tuple[Any, ...]) -> Draft:
        """The tokens that win the race by what the network believes; see `Drafter`."""
        tokens = canvas.new_full((len(canvas), count), -1)
        sure = torch.zeros(tokens.shape, device=canvas.device)
        for part in prefix:
            rows = part.rows
            tokens[rows], sure[rows] = self._draft(canvas[rows], race, count, part)
        return Draft(tokens, sure)

    def _draft(self, canvas: Tensor, race: Race, count: int, part: Any) -> tuple[Tensor, Tensor]:
        """The draft of the rows of one prefix: (b, count) int64 and float32."""
        known = (canvas != self.mask_id).long().cumprod(1).sum(1)
        guess, following = self._caught_up(canvas, known, part)
        tokens, sure = canvas.new_full((len(canvas), count), -1), torch.zeros(len(canvas), count, device=canvas.device)
        chance, chosen = torch.where(following, 1.0, 0.0), known
        for column in range(count):
            places = known + column
            drafting = (chance > FAINT) & (places < canvas.shape[1])
            if not bool(drafting.any()):
                break
            guess = self.network.step(guess, chosen) if column else guess
            chosen, p = self._drawn(guess, race, part.rows, places)
            tokens[:, column], sure[:, column] = torch.where(drafting, chosen, -1), p
            chance = torch.where(drafting, chance * p, 0.0)
        return tokens, sure

    def _caught_up(self, canvas: Tensor, known: Tensor, part: Any) -> tuple[Tensor, Tensor]:
        """The guess (b, H) after the known tokens, and in which rows (b,) there is one.

        There is none where all that is known has been read: the model itself predicts what follows.
        """
        anchored = torch.cat([part.tokens[:, -1:], canvas], dim=1)
        read, states = part.cache.last_read(anchored.masked_fill(anchored == self.mask_id, -2))
        left, last = known + 1 - read, canvas.shape[1]

        def token(number: int) -> Tensor:
            """Of each row the token so many after those that were read, if it is known."""
            return anchored.gather(1, (read + number).clamp(max=last)[:, None])[:, 0].masked_fill(left <= number, 0)

        guess = self.network.begin(states, token(0))
        for number in range(1, int(left.max())):
            guess = torch.where((number < left)[:, None], self.network.step(guess, token(number)), guess)
        return guess, left > 0

    def _drawn(self, guess: Tensor, race: Race, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens (b,) that win at some places of the rows, and how likely each is."""
        log_p = self.network.log_p(guess)
        log_p, likely = log_p.topk(min(_LIKELY, log_p.shape[1]))
        ids = self.network.ids[likely]
        numbers = zip(ids, log_p, rows.tolist(), places.tolist(), strict=True)
        won = torch.tensor([race.winner(*one) for one in numbers], device=log_p.device)[:, None]
        return ids.gather(1, won)[:, 0], log_p.gather(1, won)[:, 0].exp()
