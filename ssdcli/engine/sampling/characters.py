"""Tokens that are parts of characters: no text gets a byte sequence that is no UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling.nucleus import Picker

# What follows is a character's first byte (0), or so many more bytes (1 to 3); after some first bytes (4 to 7) the
# second has bounds of its own, so that no character is spelled in two ways or beyond U+10FFFF (Unicode, table 3-7).
_FIRST = {**dict.fromkeys(range(0x80), 0), **dict.fromkeys(range(0xC2, 0xE0), 1), **dict.fromkeys(range(0xE1, 0xF0), 2)}
_FIRST |= dict.fromkeys(range(0xF1, 0xF4), 3) | {0xE0: 4, 0xED: 5, 0xF0: 6, 0xF4: 7}
_SECOND = {1: (0x80, 0xC0, 0), 2: (0x80, 0xC0, 1), 3: (0x80, 0xC0, 2), 4: (0xA0, 0xC0, 1), 5: (0x80, 0xA0, 1)}
_SECOND |= {6: (0x90, 0xC0, 2), 7: (0x80, 0x90, 2)}
_STATES = 8
_REJECTED = 8


@cache
def _steps() -> Tensor:
    """The state after a byte in a state: (9, 256) int64."""
    table = torch.full((_STATES + 1, 256), _REJECTED)
    for byte, state in _FIRST.items():
        table[0, byte] = state
    for state, (low, high, after) in _SECOND.items():
        table[state, low:high] = after
    return table


@dataclass(frozen=True)
class Draw:
    """How a token is drawn: by temperature and nucleus, with this noise."""

    picker: Picker
    noise: CounterNoise


@dataclass(frozen=True)
class Characters:
    """Which tokens may follow one another.

    following: the state of UTF-8 after a token in a state, -1 where the token is no continuation: (8, V) int8.
    """

    following: Tensor

    @classmethod
    def of(cls, tokens: Sequence[bytes | None], vocabulary: int) -> Characters | None:
        """Of a vocabulary's bytes; None if every token is whole characters. None as bytes writes nothing."""
        whole: list[int] = []
        parts: list[int] = []
        for place, token in enumerate(tokens[:vocabulary]):
            if token:
                (whole if token.isascii() or _is_whole(token) else parts).append(place)
        if not parts:
            return None
        following = torch.arange(_STATES)[:, None].repeat(1, vocabulary)  # what writes nothing changes nothing
        following[:, whole] = torch.tensor([0, *[-1] * (_STATES - 1)])[:, None]
        for place in parts:
            state = torch.arange(_STATES)
            for byte in tokens[place] or b"":
                state = _steps()[state, byte]
            following[:, place] = torch.where(state == _REJECTED, -1, state)
        return cls(following.to(torch.int8))

    def on(self, device: torch.device | str) -> Characters:
        """The same on a device."""
        return Characters(self.following.to(device))

    def after(self, tokens: Tensor, state: Tensor) -> Tensor:
        """The state after whole rows of tokens, (B, L), in a state, (B,); what is wrong changes nothing."""
        for column in tokens.T:
            moved = self.following[state, column].long()
            state = torch.where(moved < 0, state, moved)
        return state

    def wrong(self, tokens: Tensor, known: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The first token of each row that cannot follow those before it: its place, L for none, and the state there.

        tokens: (B, L). known: the positions that count, (B, L) bool; what follows another does not. state: (B,).
        """
        length = tokens.shape[1]
        place = torch.full_like(state, length)
        for number, (column, counts) in enumerate(zip(tokens.T, known.long().cumprod(-1).bool().T, strict=True)):
            moved = self.following[state, column].long()
            looked = counts & (place == length)
            place = torch.where(looked & (moved < 0), number, place)
            state = torch.where(looked & (moved >= 0), moved, state)
        return place, state

    def mended(self, tokens: Tensor, found: tuple[Tensor, Tensor], log_p: Tensor, draw: Draw) -> Tensor:
        """The tokens, (B, L), with another in each row's wrong place, drawn from what log p (B, L, V) leaves."""
        place, state = found
        rows = torch.arange(len(tokens), device=tokens.device)
        here = place.clamp(max=tokens.shape[1] - 1)
        drawn = draw.picker.draw(self.allowed(log_p[rows, here], state)[:, None], draw.noise)[:, 0]
        kept = torch.where(place < tokens.shape[1], drawn, tokens[rows, here])
        return tokens.scatter(1, here[:, None], kept[:, None])

    def allowed(self, log_p: Tensor, state: Tensor) -> Tensor:
        """Log p (N, V) of the tokens that may follow in a state (N,), renormalised; uniform if none had a chance."""
        may = self.following[state] >= 0
        left = log_p.masked_fill(~may, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        nothing = left.amax(-1, keepdim=True) == -torch.inf
        return torch.log_softmax(torch.where(nothing & may, 0.0, left).float(), -1)


def _is_whole(token: bytes) -> bool:
    return token.decode("utf-8", "ignore").encode() == token
