"""One model as (canvas, t, prefix) -> log p(x0): what ensembles and samplers are built on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.blocks import padding_mask, prefix_mask, training_mask
from ssdcli.engine.drafting.lookahead import Lookahead, one_by_one
from ssdcli.engine.flops import Sizes
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Canvas, EmbeddingSpace, Process
from ssdcli.engine.prompt import PADDING, Prompt, ReadingOrder, fit, reading_order
from ssdcli.engine.shift import following, predicting

_STEP = 32  # columns, at least, between the widths that prefixes are padded to


class Backbone(EmbeddingSpace, Protocol):
    """A language model seen from the engine: any native architecture behind a few calls.

    block_size: the tokens of a canvas.
    reading_block: how many tokens of a prefix see each other: a block's, or 1 for a model that reads causally.
    context: the longest window, in tokens.
    shift: whether a token is predicted by the hidden state of the one before it; its caches have a `tail` (see
        `following`).
    forgets: whether caches lose columns of a long prefix, as in layers with a sliding window.
    """

    block_size: int
    reading_block: int
    context: int
    shift: bool
    forgets: bool

    @property
    def device(self) -> torch.device:
        """Where canvases and prefixes are."""

    @property
    def sizes(self) -> Sizes:
        """What its parts cost to compute."""

    @property
    def self_conditioned(self) -> bool:
        """Whether the previous prediction is an input (self-conditioning)."""

    def condition(self, embedded: Tensor, t: Tensor | None, previous: Tensor | None) -> Tensor:
        """Add the noise level t (B, L) and the previous prediction's embedding (B, L, H), where given."""

    def new_cache(self) -> Any:
        """An empty KV cache; `first(n)` of a cache that was read at once is the cache of its first n columns."""

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any | None) -> Tensor:
        """Run the body over (B, L, H) after the cache, which is left as it was; returns hidden states (B, L, H)."""

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Any:
        """The cache with (B, L, H) appended; the given one stays as it was."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the clean tokens: (B, L, V) float32, -inf for ids that are never text."""


def denoise_sequence(
    backbone: Backbone,
    embedded: Tensor,
    packed: Packed,
    t: Tensor | None,
    previous: Tensor | None = None,
) -> Tensor:
    """Denoise all blocks of packed texts in one pass over [noised ; clean]: hidden states (B, T, H).

    embedded: (B, T, H), the noised tokens. t: (B, T), the noise levels, for a model that is told them. previous:
    (B, T, H), the previous prediction embedded, for self-conditioning.
    """
    noised = backbone.condition(embedded, t, previous)
    both = torch.cat([noised, backbone.embed(packed.tokens).to(noised.dtype)], dim=1)
    hidden = backbone.encode(both, packed.positions.repeat(1, 2), training_mask(packed), None)
    return predicting(hidden, packed) if backbone.shift else hidden[:, : packed.length]


@dataclass(frozen=True)
class Prefix:
    """Known text of some rows of a batch, read at one width: P columns, padded on the left.

    rows: (b,) int64, which rows of the batch these are.
    tokens: (b, P) int64, in reading order.
    positions: their position ids, (b, P) int64.
    ranks: (b, P) int64, see `prefix_mask`.
    canvas_at: (b,) int64, the position of the next canvas.
    slides: whether the window moves on when it is full; a gap ends before that.
    cache: the KV cache of the columns, where there is one.
    """

    rows: Tensor
    tokens: Tensor
    positions: Tensor
    ranks: Tensor
    canvas_at: Tensor
    slides: bool
    cache: Any = None

    def canvas_positions(self, length: int) -> Tensor:
        """Position ids of a canvas of this length: (b, length) int64."""
        return self.canvas_at[:, None] + torch.arange(length, device=self.canvas_at.device)

    def real(self, length: int) -> Tensor:
        """Which columns of the prefix and a canvas of this length hold tokens: (b, P + length) bool."""
        return torch.nn.functional.pad(self.ranks != PADDING, (0, length), value=True)

    def followed_by(self, tokens: Tensor, block: int) -> Prefix:
        """The prefix with clean tokens (b, L) appended, which are read in blocks of this size."""
        positions = self.canvas_positions(tokens.shape[1])
        ranks = self.ranks.amax(1, keepdim=True) + 1 + torch.arange(tokens.shape[1], device=tokens.device) // block
        return replace(
            self,
            tokens=torch.cat([self.tokens, tokens], dim=1),
            positions=torch.cat([self.positions, positions], dim=1),
            ranks=torch.cat([self.ranks, ranks], dim=1),
            canvas_at=self.canvas_at + tokens.shape[1],
        )

    def row(self, place: int) -> Prefix:
        """One of the rows, not read yet."""
        kept = slice(place, place + 1)
        return Prefix(
            self.rows[kept],
            self.tokens[kept],
            self.positions[kept],
            self.ranks[kept],
            self.canvas_at[kept],
            self.slides,
        )

    def repeated(self, count: int) -> Prefix:
        """One row as so many, without its cache."""
        rows, tokens, positions, ranks, canvas_at = (
            part.expand(count, *part.shape[1:])
            for part in (self.rows, self.tokens, self.positions, self.ranks, self.canvas_at)
        )
        return Prefix(rows, tokens, positions, ranks, canvas_at, self.slides)

    def last(self, count: int) -> Prefix:
        """The last `count` columns, as if they were the whole text."""
        start = self.positions[:, -count]  # 0 where the text begins later
        return replace(
            self,
            tokens=self.tokens[:, -count:],
            positions=self.positions[:, -count:] - start[:, None],
            ranks=self.ranks[:, -count:],
            canvas_at=self.canvas_at - start,
        )


def in_order(parts: Sequence[Tensor], prefixes: Sequence[Prefix]) -> Tensor:
    """The rows of a batch, in order, from those of each prefix."""
    return torch.cat(list(parts))[torch.cat([prefix.rows for prefix in prefixes]).argsort()]


class Denoiser:
    """A backbone that reads a prefix once, block by block or token by token, and its noise process.

    A row's arithmetic does not depend on its neighbours: rows share a forward pass only if each would be padded to the
    same width alone. On a CPU, in float32, this holds bit for bit for canvases of a multiple of 16 tokens, and on some
    CPUs of 4: matrix products take rows in groups of so many, and round the last rows of other counts differently. The
    prefixes of a batch are a tuple in which every row occurs once.

    abstains: whether it predicts nothing (NaN) at some positions.
    """

    abstains = False

    def __init__(self, backbone: Backbone, process: Process) -> None:
        """Wrap a backbone; prefixes live on its device."""
        self.backbone = backbone
        self.process = process

    @property
    def block_size(self) -> int:
        """The tokens of a canvas."""
        return self.backbone.block_size

    @property
    def context(self) -> int:
        """The longest window, in tokens."""
        return self.backbone.context

    @property
    def device(self) -> torch.device:
        """Where canvases are."""
        return self.backbone.device

    @property
    def reader(self) -> object:
        """What reads a prefix: members of the same reader may share what they have read."""
        return getattr(self.backbone, "core", self.backbone)

    @property
    def room(self) -> int:
        """The longest prefix, in tokens, that leaves space for a canvas."""
        return self.backbone.context - self.backbone.block_size

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: the nearest block (measured, see docs/lab)."""
        return self.backbone.block_size

    def start(self, prompts: Sequence[Prompt]) -> tuple[Prefix, ...]:
        """Read the prompts, each cut to the window (see `fit`) and with at least one token before the canvas."""
        groups: dict[tuple[int, bool], dict[int, ReadingOrder]] = {}
        for row, prompt in enumerate(prompts):
            order = self._reading_order(prompt)
            groups.setdefault((self._width(len(order.tokens)), prompt.gap == 0), {})[row] = order
        return tuple(
            self._read(self._columns(together, *how))
            for how, orders in groups.items()
            for together in self._together(orders)
        )

    def _together(self, orders: Mapping[int, ReadingOrder]) -> Iterator[Mapping[int, ReadingOrder]]:
        """Rows of one width, split into those that share passes: here, all."""
        yield orders

    def _reading_order(self, prompt: Prompt) -> ReadingOrder:
        """Cut a prompt to the window and place it."""
        return reading_order(fit(prompt, self.backbone.context, self.backbone.block_size), self.backbone.reading_block)

    def _width(self, columns: int) -> int:
        """The number of columns that this many tokens are padded to."""
        # Widths lie a quarter to an eighth apart: rows of similar length share a pass, and little padding is computed.
        step = max(_STEP, 1 << columns.bit_length() >> 3)
        return min(-(-columns // step) * step, self.room)

    def _columns(self, orders: Mapping[int, ReadingOrder], width: int, slides: bool) -> Prefix:
        """Rows with these orders at one width, not read yet."""
        device = self.backbone.device
        rows = torch.tensor(list(orders), device=device)
        columns = torch.tensor([order.columns(width) for order in orders.values()], device=device)
        tokens, positions, ranks = columns.unbind(1)
        canvas_at = torch.tensor([order.canvas_at for order in orders.values()], device=device)
        return Prefix(rows, tokens, positions, ranks, canvas_at, slides)

    def _read(self, prefix: Prefix) -> Prefix:
        """Read all columns from scratch."""
        mask = prefix_mask(prefix.ranks)
        cache = self._remember(prefix.tokens, prefix.positions, mask, self.backbone.new_cache())
        return replace(prefix, cache=cache)

    def _remember(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Any:
        """The cache with clean tokens (b, n) at their positions appended."""
        return self.backbone.extend(self.backbone.embed(tokens), positions, mask, cache)

    def reach(self, prompt: Prompt) -> int:
        """How many tokens after a prompt are written before the window slides: those of some whole blocks."""
        size, columns = self.backbone.block_size, self._width(len(self._reading_order(prompt).tokens))
        return ((self.room - columns) // size + 1) * size

    def slid(self, prompt: Prompt, tokens: Sequence[int]) -> Prompt:
        """What the window holds once it has slid after these tokens: the later half of the text."""
        return Prompt([*prompt.before, *tokens][-self._half :])

    def denoise(self, canvas: Canvas, t: float, previous: Tensor | None, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32.

        previous: log p (B, L, V) of the previous step (self-conditioning), or None at the first step of a block.
        """
        if len(prefixes) == 1:
            return self._predict(canvas, t, previous, prefixes[0])
        parts = [self._predict(canvas[p.rows], t, None if previous is None else previous[p.rows], p) for p in prefixes]
        return in_order(parts, prefixes)

    def ahead(self, ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Log p at the positions of a lookahead, each from a canvas of its own: (B, C, V) float32.

        Needs a process that hides tokens. Positions that are not wanted may hold anything.
        """
        if len(prefixes) == 1:
            return self._ahead(ahead, prefixes[0])
        return in_order([self._ahead(ahead.rows(prefix.rows), prefix) for prefix in prefixes], prefixes)

    def _ahead(self, ahead: Lookahead, prefix: Prefix) -> Tensor:
        """Log p at the positions (b, C) of a prefix's rows: (b, C, V); the canvases of a row share its prefix."""
        if ahead.drafted.is_cpu and bool((ahead.drafted < 0).all()):  # texts that have ended
            return torch.full((*ahead.places.shape, self.process.vocabulary), math.nan)
        if len(prefix.rows) > 1:
            return one_by_one(self, ahead, (replace(prefix, rows=torch.arange(len(prefix.rows))),))
        columns = torch.arange(ahead.width, device=ahead.places.device)
        cache = None if prefix.cache is None else prefix.cache.for_rows(ahead.width)
        log_p = self._predict(ahead.canvases()[0], 1.0, None, replace(prefix.repeated(ahead.width), cache=cache))
        return log_p[columns, ahead.places[0]][None]

    def _predict(self, canvas: Canvas, t: float, previous: Tensor | None, prefix: Prefix) -> Tensor:
        """Log p of the canvases (b, ...) of a prefix's rows: (b, L, V)."""
        process, backbone = self.process, self.backbone
        embedded = process.embed(canvas, backbone)
        level = torch.full(embedded.shape[:2], t, device=embedded.device) if process.timed else None
        conditioned = process.self_conditioned and backbone.self_conditioned
        prediction = backbone.embed_mixture(previous.exp()) if conditioned and previous is not None else None
        hidden = self._hidden(backbone.condition(embedded, level, prediction), prefix)
        return torch.log_softmax(backbone.logits(hidden), dim=-1)

    def _hidden(self, embedded: Tensor, prefix: Prefix) -> Tensor:
        """Hidden states of a canvas (b, L, H) after the cached prefix: (b, L, H)."""
        length = embedded.shape[1]
        positions, mask = prefix.canvas_positions(length), padding_mask(prefix.real(length), length)
        hidden = self.backbone.encode(embedded, positions, mask, prefix.cache)
        return following(hidden, positions, prefix.cache.tail) if self.backbone.shift else hidden

    def commit(self, tokens: Tensor, prefixes: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
        """Append a clean block (B, L); where the window is full, the later half of the text is read anew."""
        return tuple(self._commit(tokens[prefix.rows], prefix) for prefix in prefixes)

    def _commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        length = tokens.shape[1]
        grown = prefix.followed_by(tokens, self.backbone.reading_block)
        if prefix.slides and grown.tokens.shape[1] > self.room:
            return self._read(grown.last(self._half))
        mask = prefix_mask(grown.ranks, length)
        return replace(grown, cache=self._remember(tokens, prefix.canvas_positions(length), mask, prefix.cache))

    @property
    def _half(self) -> int:
        """How many columns are read anew when the window is full."""
        return self._width(-(-self.room // 2))

    def flops(self, length: int, seen: int) -> int:
        """Estimate the FLOPs of denoising one canvas once, when the prefix has `seen` columns.

        The first step of a block, which has no previous prediction, is counted like the others.
        """
        sizes = self.backbone.sizes
        return sizes.reading(length, seen) + sizes.denoising(length, self.process)

    def flops_of_reading(self, columns: int, seen: int) -> int:
        """Estimate the FLOPs of reading this many columns of one row's prefix after `seen` others."""
        return self.backbone.sizes.reading(columns, seen)

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs of generating after a prompt, a pair a block: what `start` or `commit` reads, and each step."""
        size = self.backbone.block_size
        seen, columns = 0, self._width(len(self._reading_order(prompt).tokens))
        while True:
            yield self.flops_of_reading(columns, seen), self.flops(size, seen + columns)
            seen, columns = seen + columns, size
            if prompt.gap == 0 and seen + columns > self.room:
                seen, columns = 0, self._half
