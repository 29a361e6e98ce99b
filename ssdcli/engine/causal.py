"""A causal language model as a member: it predicts the leftmost hidden position, exactly, and abstains elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from ssdcli.engine.blocks import prefix_mask
from ssdcli.engine.denoiser import Backbone, Denoiser, Prefix
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt, ReadingOrder

# On a CPU, matrix products of 4, 8 and 12 rows round alike, and those of fewer or more do not (measured with MKL in
# float32). Passes over a canvas keep to these, so that a row is the same alone and in any batch.
_FOUR = 4
_MOST = 12
_SCORED = 64  # positions whose predictions over the vocabulary are held at once


class CausalBackbone(Backbone, Protocol):
    """A causal language model whose cache can be written at any place.

    Its caches have `tail`, `first(n)`, `spaced(n)`, a copy with free columns, and `joined`, of several rows.
    """

    def write(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any, columns: Tensor) -> Tensor:
        """Run the body over (B, w, H), whose keys and values go into these columns (B, w) of a spaced cache, in place.

        Returns hidden states (B, w, H).
        """
        ...


@dataclass(frozen=True)
class Reading:
    """What was read of a prefix and, lately, after it.

    The tensors are written in place as a canvas fills up. They are a memo alone: what a canvas does not share with the
    tokens that were read is read again.

    cache: of the P columns of the prefix, and free ones for a canvas.
    tokens: those read after the prefix, (b, n) int64; -1 where there is none.
    states: hidden states, (b, n + 1, H): the one at i predicts position i of the canvas.
    """

    cache: Any
    tokens: Tensor
    states: Tensor

    @classmethod
    def of(cls, cache: Any, last: Tensor, free: int) -> Reading:
        """Of a prefix alone: its cache, the hidden state of its last token (b, 1, H), and the columns to keep free."""
        tokens = torch.full((len(last), free), -1, dtype=torch.int64, device=last.device)
        return cls(cache.spaced(free), tokens, pad(last, (0, 0, 0, free)))

    def known(self, canvas: Tensor) -> Tensor:
        """How many of the first tokens of a canvas (b, L) were read: (b,) int64."""
        return (self.tokens[:, : canvas.shape[1]] == canvas).long().cumprod(1).sum(1)


class CausalDenoiser(Denoiser):
    """A causal language model that joins the masked process.

    The known tokens left of the leftmost hidden position run through the unchanged model, whose prediction of the next
    token is the prediction of that position. Elsewhere log p is NaN: it abstains. Nothing to the right is seen.
    """

    abstains = True
    backbone: CausalBackbone
    process: Masked

    def __init__(self, backbone: CausalBackbone, process: Process) -> None:
        """Wrap a backbone; ValueError for another process."""
        if not isinstance(process, Masked):
            raise ValueError(f"a causal language model takes part in the masked process alone, not in {process.name}")
        super().__init__(backbone, process)

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: none."""
        return 0

    @property
    def _free(self) -> int:
        """The columns that are kept for a canvas: the last pass may reach beyond its end."""
        return self.backbone.block_size + _MOST - 1

    def _reading_order(self, prompt: Prompt) -> ReadingOrder:
        return super()._reading_order(replace(prompt, after=()))

    def _together(self, orders: Mapping[int, ReadingOrder]) -> Iterator[Mapping[int, ReadingOrder]]:
        """At most as many rows as share a pass on a CPU."""
        if self.backbone.device.type != "cpu":
            yield orders
            return
        rows, most = list(orders), _MOST // _FOUR
        for start in range(0, len(rows), most):
            yield {row: orders[row] for row in rows[start : start + most]}

    def _read(self, prefix: Prefix) -> Prefix:
        alone = prefix.tokens.is_cpu  # long passes round differently with the number of rows, and cost no less together
        parts = [prefix.taking(slice(i, i + 1)) for i in range(len(prefix.rows))] if alone else [prefix]
        caches = [super(CausalDenoiser, self)._read(part).cache for part in parts]
        last = torch.cat([cache.tail[0][:, -1:] for cache in caches])
        return replace(prefix, cache=Reading.of(type(caches[0]).joined(caches), last, self._free))

    def _predict(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Prefix) -> Tensor:
        length = canvas.shape[1]
        known = (canvas != self.process.mask_id).long().cumprod(1).sum(1)
        self._catch_up(canvas, known, prefix)
        reading: Reading = prefix.cache
        rows = torch.arange(len(canvas), device=canvas.device)
        predicted = self.log_p(reading.states[rows, known]).masked_fill((known == length)[:, None], math.nan)
        log_p = predicted.new_full((*canvas.shape, predicted.shape[1]), math.nan)
        log_p[rows, known.clamp(max=length - 1)] = predicted
        return log_p

    def _catch_up(self, canvas: Tensor, count: Tensor, prefix: Prefix) -> None:
        """Read the first `count` (b,) tokens of each canvas (b, L), as far as they were not read before."""
        reading: Reading = prefix.cache
        if not canvas.is_cpu:  # how much is new cannot be asked without waiting, and a short pass takes as long
            self._write(canvas, torch.zeros_like(count), count, prefix, canvas.shape[1])
            return
        known = torch.minimum(reading.known(canvas), count)
        most = _MOST // len(canvas) // _FOUR * _FOUR
        while (new := int((count - known).max())) > 0:
            width = min(-(-new // _FOUR) * _FOUR, most)
            self._write(canvas, known, count, prefix, width)
            known = torch.minimum(known + width, count)

    def _write(self, canvas: Tensor, start: Tensor, count: Tensor, prefix: Prefix, width: int) -> None:
        """Read `width` places of each canvas (b, L) from `start` (b,) on; those from `count` (b,) on hold no token.

        A place without a token runs token 0 through the model. No token sees it, and it is written again when it has
        one.
        """
        reading: Reading = prefix.cache
        places = start[:, None] + torch.arange(width, device=canvas.device)
        real = places < count[:, None]
        tokens = canvas.gather(1, places.clamp(max=canvas.shape[1] - 1)).where(real, 0)
        positions = (prefix.canvas_at[:, None] + places).clamp(max=self.backbone.context - 1)
        columns = prefix.tokens.shape[1] + places
        mask = prefix.real(reading.tokens.shape[1])[:, None, None, :] & (
            torch.arange(reading.tokens.shape[1] + prefix.tokens.shape[1], device=canvas.device)
            <= columns[:, None, :, None]
        )
        hidden = self.backbone.write(self.backbone.embed(tokens), positions, mask, reading.cache, columns)
        reading.states.scatter_(1, (places + 1)[..., None].expand_as(hidden), hidden)
        later = torch.arange(reading.tokens.shape[1], device=canvas.device) >= start[:, None]
        reading.tokens.masked_fill_(later, -1).scatter_(1, places, tokens.where(real, -1))

    def _commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        length = tokens.shape[1]
        grown = prefix.followed_by(tokens, 1)
        if prefix.slides and grown.tokens.shape[1] > self.room:
            return self._read(grown.last(self._half))
        reading: Reading = prefix.cache
        if length > self.backbone.block_size:
            before, positions = reading.cache.first(prefix.tokens.shape[1]), prefix.canvas_positions(length)
            cache = self._remember(tokens, positions, prefix_mask(grown.ranks, length), before)
            return replace(grown, cache=Reading.of(cache, cache.tail[0][:, -1:], self._free))
        self._catch_up(tokens, torch.full_like(prefix.rows, length), prefix)
        last = reading.states[:, length : length + 1]
        return replace(grown, cache=Reading.of(reading.cache.first(grown.tokens.shape[1]), last, self._free))

    def states(self, tokens: Tensor) -> Tensor:
        """Hidden states of whole texts (B, T) int64, in one pass: (B, T, H); the one at i predicts the token at i + 1.

        ValueError for texts longer than the context.
        """
        length = tokens.shape[1]
        if length > self.backbone.context:
            raise ValueError(f"a text of {length} tokens is longer than the context of {self.backbone.context}")
        tokens = pad(tokens, (0, -length % _FOUR))  # no token sees what is on its right
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        mask = (positions <= positions[:, None]).expand(len(tokens), 1, -1, -1)
        positions = positions.clamp(max=self.backbone.context - 1).expand_as(tokens)
        return self.backbone.encode(self.backbone.embed(tokens), positions, mask, None)[:, :length]

    def states_after(self, tokens: Tensor, prefix: Prefix) -> Tensor:
        """Hidden states behind a prefix of one row: tokens (1, n) to (1, n + 1, H); the one at i predicts token i.

        The prefix stays as it was.
        """
        reading: Reading = prefix.cache
        count = tokens.shape[1]
        padded = pad(tokens, (0, -count % _FOUR))
        positions = prefix.canvas_positions(padded.shape[1]).clamp(max=self.backbone.context - 1)
        mask = prefix_mask(prefix.followed_by(padded, 1).ranks, padded.shape[1])
        cache = reading.cache.first(prefix.tokens.shape[1])
        hidden = self.backbone.encode(self.backbone.embed(padded), positions, mask, cache)
        return torch.cat([reading.states[:, :1], hidden[:, :count]], dim=1)

    def log_p(self, states: Tensor) -> Tensor:
        """Log p of the tokens that hidden states (..., H) predict: (..., V) float32; a virtual mask has none."""
        rows = states.flatten(0, -2)
        count = len(rows)
        if rows.is_cpu and count < _FOUR:
            rows = pad(rows, (0, 0, 0, _FOUR - count))
        scores = torch.log_softmax(self.backbone.logits(rows[None])[0, :count], dim=-1)
        scores = pad(scores, (0, self.process.vocabulary - scores.shape[1]), value=-math.inf)
        return scores.view(*states.shape[:-1], -1)

    def score(self, tokens: Tensor) -> Tensor:
        """Log p of each token but the first, given those before it: (B, T) int64 to (B, T - 1) float32, in nats."""
        states = self.states(tokens)[:, :-1]
        parts = zip(states.split(_SCORED, dim=1), tokens[:, 1:].split(_SCORED, dim=1), strict=True)
        return torch.cat([self.log_p(state).gather(-1, token[..., None])[..., 0] for state, token in parts], dim=1)

    def flops(self, length: int, seen: int) -> int:
        """Estimate the FLOPs of a step: the token that was revealed last is read, and the next one is predicted."""
        return self.backbone.sizes.reading(1, seen + length) + self.backbone.sizes.denoising(1, self.process)

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs of generating after a prompt, a pair a block: what `start` or `commit` reads, and each step.

        The steps read the block itself, so that a commit reads nothing unless the window slides.
        """
        size = self.backbone.block_size
        columns = self._width(len(self._reading_order(prompt).tokens))
        reading = self.flops_of_reading(columns, 0)
        while True:
            yield reading, self.flops(size, columns)
            columns, reading = columns + size, 0
            if prompt.gap == 0 and columns > self.room:
                columns, reading = self._half, self.flops_of_reading(self._half, 0)
