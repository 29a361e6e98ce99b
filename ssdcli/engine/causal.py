"""A causal language model as a member: it predicts the leftmost hidden position, exactly, and abstains elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ssdcli.engine.canvas_memory import CanvasMemory
from ssdcli.engine.denoiser import Backbone, Denoiser, Prefix, in_order
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.pauses import in_pauses
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import HEARD, Prompt, ReadingOrder

_CHUNK = 128  # tokens of a prompt that are read at once (measured)
_KEPT = 4096  # tokens of a prompt that stay read for the next ones, at most
_TEXTS = 2  # of which that is so
_SCORED = 64  # positions whose predictions over the vocabulary are held at once


class CausalBackbone(Backbone, Protocol):
    """A causal language model. Where no mask is given, each token sees itself and all before it.

    Its caches have `tail`, `first(n)`, `spaced(n)`, a copy with spare columns at its end, and `for_rows(b)`, for one.
    """

    def encode(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: Any | None) -> Tensor:
        """As a backbone's."""

    def extend(self, embedded: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Any:
        """As a backbone's."""

    def is_current(self, cache: Any) -> bool:
        """Whether a cache holds what would be kept of its tokens now."""

    def write(self, embedded: Tensor, positions: Tensor, cache: Any, count: int) -> Tensor:
        """Run the body over (B, w, H) after the first `count` columns of a spaced cache; returns (B, w, H).

        The cache is changed: its next w columns are then those of these tokens.
        """

    def write_each(self, parts: Sequence[tuple[Tensor, Tensor, Any, int]]) -> Sequence[Tensor]:
        """The same for several rows, with the arguments of `write` for each; their states are those of a write alone.

        A backbone with `shared_tokens` lets so many tokens share a pass, and their states a call of `logits`; by
        `scored` it gives what its reader's head scores of states (..., H).
        """


def shared_tokens(backbone: object) -> int:
    """How many tokens may share a product without changing a bit of what each row is alone; 0: none."""
    return int(getattr(backbone, "shared_tokens", 0))


class CausalDenoiser(Denoiser):
    """A causal language model that joins the masked process.

    The known tokens left of the leftmost hidden position run through the unchanged model, whose prediction of the next
    token is the prediction of that position. Elsewhere log p is NaN: it abstains. It sees nothing to the right.

    Each step reads the whole canvas, so that the host need not know how much of it is known.
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
    def same_on_any_threads(self) -> bool:
        """Whether predictions are the same, bit for bit, whatever the number of threads."""
        return bool(getattr(self.backbone, "same_on_any_threads", False))

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: none."""
        return 0

    def _reading_order(self, prompt: Prompt) -> ReadingOrder:
        return super()._reading_order(replace(prompt, after=()))

    def _predict(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Prefix) -> Tensor:
        length, rows = canvas.shape[1], torch.arange(len(canvas), device=canvas.device)
        known = self._known(canvas)
        place = known.clamp(max=length - 1)
        predicted = self.log_p(self._before(canvas, place, prefix)).masked_fill((known == length)[:, None], math.nan)
        log_p = predicted.new_full((*canvas.shape, predicted.shape[1]), math.nan)
        log_p[rows, place] = predicted
        return log_p

    def _known(self, canvas: Tensor) -> Tensor:
        """How many tokens of canvases (b, L) are known from the left: (b,) int64."""
        return (canvas != self.process.mask_id).long().cumprod(1).sum(1)

    def states_at(self, canvas: Tensor, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Hidden states that predict the leftmost hidden positions of canvases (B, L): (B, H); anything without one."""
        parts = [
            self._before(own, self._known(own).clamp(max=canvas.shape[1] - 1), prefix)
            for own, prefix in ((canvas[prefix.rows], prefix) for prefix in prefixes)
        ]
        return in_order(parts, prefixes)

    def states_ahead(self, ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Hidden states that predict the positions of a lookahead: (B, C, H), anything where none is wanted."""
        return in_order([self._states_ahead(ahead.rows(prefix.rows), prefix) for prefix in prefixes], prefixes)

    def _ahead(self, ahead: Lookahead, prefix: Prefix) -> Tensor:
        return self.log_p(self._states_ahead(ahead, prefix))

    def _states_ahead(self, ahead: Lookahead, prefix: Prefix) -> Tensor:
        known = ahead.canvas.masked_fill(ahead.canvas == self.process.mask_id, 0)
        return self.states_after(known, prefix)[torch.arange(len(known), device=known.device)[:, None], ahead.places]

    def _before(self, canvas: Tensor, place: Tensor, prefix: Prefix) -> Tensor:
        """Hidden states of the tokens before a place (b,) of each canvas (b, L): (b, H)."""
        places = torch.arange(canvas.shape[1], device=canvas.device)
        tokens = canvas.masked_fill(places >= place[:, None], 0)  # seen by no token before the place
        return self.states_after(tokens, prefix)[torch.arange(len(canvas), device=canvas.device), place]

    def recent(self, prompt: Prompt, count: int, prefixes: tuple[Prefix, ...], row: int) -> Iterator[Tensor]:
        """Log p of the last tokens of a row's prompt, each by those before it: (V,) each; HEARD tokens at most.

        prefixes: as `start` returned them.
        """
        for states in self.recent_states(count, prefixes, row).split(_SCORED):
            yield from self.log_p(states)

    def recent_states(self, count: int, prefixes: tuple[Prefix, ...], row: int) -> Tensor:
        """Hidden states that predict so many of the last tokens of a row's prompt: (count, H)."""
        part, place = next((part, place) for part in prefixes for place in (part.rows == row).nonzero()[:, 0].tolist())
        return self._states_read(part)[place, -count - 1 : -1]

    def _states_read(self, prefix: Prefix) -> Tensor:
        """Hidden states of the last tokens of a prefix that was just read: (b, n, H)."""
        states: Tensor = prefix.cache.tail[0]
        return states

    def beside_reader(self) -> CausalDenoiser:
        """The same as far as costs go, where another member reads all text for it."""
        backbone = getattr(self.backbone, "beside_core", None)
        return self if backbone is None else type(self)(backbone(), self.process)

    def states(self, tokens: Tensor) -> Tensor:
        """Hidden states of whole texts (B, T) int64, in one pass: (B, T, H); the one at i predicts the token at i + 1.

        ValueError for texts longer than the context.
        """
        length = tokens.shape[1]
        if length > self.backbone.context:
            raise ValueError(f"a text of {length} tokens is longer than the context of {self.backbone.context}")
        positions = torch.arange(length, device=tokens.device).expand_as(tokens)
        return self.backbone.encode(self.backbone.embed(tokens), positions, None, None)

    def states_after(self, tokens: Tensor, prefix: Prefix) -> Tensor:
        """Hidden states after a prefix: tokens (b, n) to (b, n + 1, H); the one at i predicts token i.

        The prefix, of b rows or of one that all follow, stays as it was.
        """
        rows, count = tokens.shape
        mask = prefix.real(count)[:, None, None, :] & _causal(count, prefix.tokens)
        cache, last = self._read_before(prefix)
        embedded, positions = self.backbone.embed(tokens), prefix.canvas_positions(count).expand(rows, -1)
        after = self.backbone.encode(embedded, positions, mask.expand(rows, -1, -1, -1), cache.for_rows(rows))
        return torch.cat([last.expand(rows, -1, -1), after], dim=1)

    def _read_before(self, prefix: Prefix) -> tuple[Any, Tensor]:
        """What was read of a prefix: its cache, and the hidden state of its last token (b, 1, H)."""
        return prefix.cache, prefix.cache.tail[0][:, -1:]

    def log_p(self, states: Tensor) -> Tensor:
        """Log p of the tokens that hidden states (..., H) predict: (..., V) float32."""
        return torch.log_softmax(self.backbone.logits(states), dim=-1)

    def score(self, tokens: Tensor) -> Tensor:
        """Log p of each token but the first, given those before it: (B, T) int64 to (B, T - 1) float32, in nats."""
        states = self.states(tokens)[:, :-1]
        parts = zip(states.split(_SCORED, dim=1), tokens[:, 1:].split(_SCORED, dim=1), strict=True)
        return torch.cat([self.log_p(state).gather(-1, token[..., None])[..., 0] for state, token in parts], dim=1)

    def flops(self, length: int, seen: int) -> int:
        """Estimate the FLOPs of a step: the canvas is read, and one token is predicted."""
        return self.backbone.sizes.reading(length, seen) + self.backbone.sizes.denoising(1, self.process)


class StepwiseCausalDenoiser(CausalDenoiser):
    """A causal language model on a CPU: each token is read once.

    Rows run without padding, and one by one unless the backbone computes each as it would alone. So a row is bit for
    bit what it is alone, although matrix products may round differently for other numbers of rows. A prompt is read in
    chunks; those at its beginning that one of the last prompts had as well, such as a private context, are not read
    again.
    """

    def __init__(self, backbone: CausalBackbone, process: Process) -> None:
        """As a causal denoiser."""
        super().__init__(backbone, process)
        self._texts: list[tuple[Tensor, Any]] = []  # chunks that were read, (n,), and their caches; the latest first

    def _width(self, columns: int) -> int:
        return min(columns, self.room)

    def _together(self, orders: Mapping[int, ReadingOrder]) -> Iterator[Mapping[int, ReadingOrder]]:
        return ({row: order} for row, order in orders.items())

    def _read(self, prefix: Prefix) -> Prefix:
        size, cache = self.backbone.block_size, self._read_in_chunks(prefix.tokens, prefix.positions)
        last = cache.tail[0][:, -1:]
        memory = CanvasMemory.of(cache.spaced(size), last[:, 0], size)
        memory.keep(0, prefix.tokens[:, -1:], last)
        return replace(prefix, cache=replace(memory, read=cache.tail[0][:, -HEARD - 1 :].clone()))

    def _states_read(self, prefix: Prefix) -> Tensor:
        states: Tensor = prefix.cache.read
        return states

    def _read_in_chunks(self, tokens: Tensor, positions: Tensor) -> Any:
        """The cache of a text (b, n), of which rows that are alone are kept for texts that begin alike."""
        whole = 0 if self.backbone.forgets else (tokens.shape[1] - 1) // _CHUNK * _CHUNK  # the last token is read anew
        known, cache = self._known_chunks(tokens[0, :whole]) if len(tokens) == 1 else (0, None)
        cache = self.backbone.new_cache() if cache is None else cache
        for start in [*range(known, whole, _CHUNK), whole]:
            if start > known:
                in_pauses.get()()
            if start == min(whole, _KEPT) and start and len(tokens) == 1:
                self._texts = [(tokens[0, :start], cache), *self._texts[: _TEXTS - 1]]
            part = slice(start, start + _CHUNK if start < whole else None)
            before = cache.tail
            cache = self.backbone.extend(self.backbone.embed(tokens[:, part]), positions[:, part], None, cache)
            if before is not None:  # the states of all chunks
                cache.tail = tuple(torch.cat(parts, dim=1) for parts in zip(before, cache.tail, strict=True))
        return cache

    def _known_chunks(self, tokens: Tensor) -> tuple[int, Any]:
        """How many of these tokens (n,), in whole chunks, have been read already, and their cache."""
        best: tuple[int, Any] = 0, None
        self._texts = [(text, cache) for text, cache in self._texts if self.backbone.is_current(cache)]
        for text, cache in self._texts:
            size = min(len(text), len(tokens))
            known = int((text[:size] == tokens[:size]).long().cumprod(0).sum()) // _CHUNK * _CHUNK
            if known > best[0]:
                best = known, cache.first(known)
        return best

    def _read_before(self, prefix: Prefix) -> tuple[Any, Tensor]:
        memory = self._read_to(prefix.tokens[:, -1:], prefix)
        return memory.cache.first(prefix.tokens.shape[1]), memory.states[:, :1]

    def _read_to(self, tokens: Tensor, prefix: Prefix) -> CanvasMemory:
        """Read those of the tokens from the anchor on, (b, n), that have not been read; returns what is known then."""
        return self._read_each([tokens], [prefix])[0]

    def _read_each(self, texts: Sequence[Tensor], prefixes: Sequence[Prefix]) -> list[CanvasMemory]:
        """The same for several prefixes, of which each is read as it is alone."""
        memories: list[CanvasMemory] = [prefix.cache for prefix in prefixes]
        unread = []
        for memory, tokens, prefix in zip(memories, texts, prefixes, strict=True):
            known = memory.shared(tokens)
            if known < tokens.shape[1]:
                columns = prefix.tokens.shape[1] - 1 + known
                positions = prefix.canvas_positions(tokens.shape[1])[:, known:] - 1
                unread.append((memory, known, tokens[:, known:], positions, columns))
        hidden = self.process.mask_id  # seen by no token of the row before its place
        states = self.backbone.write_each(
            [
                (self.backbone.embed(new.masked_fill(new == hidden, 0)), positions, memory.cache, columns)
                for memory, _, new, positions, columns in unread
            ]
        )
        for (memory, known, new, *_), state in zip(unread, states, strict=True):
            memory.keep(known, new, state)
        return memories

    def _before(self, canvas: Tensor, place: Tensor, prefix: Prefix) -> Tensor:
        rows = torch.arange(len(canvas), device=canvas.device)
        hidden = canvas[rows, place] == self.process.mask_id  # where nothing is, nothing is predicted
        count = int((place * hidden).max())
        return self._read_to(_anchored(canvas[:, :count], prefix), prefix).states[rows, place]

    def states_ahead(self, ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Hidden states that predict the positions of a lookahead: (B, C, H), anything where none is wanted.

        Rows share passes where that changes none of their bits.
        """
        wanted = ahead.drafted >= 0
        read = [prefix for prefix in prefixes if bool(wanted[prefix.rows].any())]
        shown = [int((ahead.left * wanted)[prefix.rows].max()) for prefix in read]
        texts = [_anchored(ahead.canvas[p.rows, :count], p) for p, count in zip(read, shown, strict=True)]
        states = torch.cat([memory.states for memory in self._read_each(texts, read)])
        own = torch.zeros_like(ahead.first)
        own[torch.cat([prefix.rows for prefix in read])] = torch.arange(len(states), device=states.device)
        return states[own[:, None], ahead.places]

    def ahead(self, ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> Tensor:
        """As a denoiser's; only wanted positions are predicted, and rows share products likewise."""
        return self.ahead_of([self.backbone], ahead, prefixes)[0]

    def ahead_of(self, backbones: Sequence[Any], ahead: Lookahead, prefixes: tuple[Prefix, ...]) -> list[Tensor]:
        """Log p at the positions of a lookahead by some backbones that read what this one does: (B, C, V) of each.

        Several must let tokens share passes: their states are scored in one product.
        """
        found = [self._silence(ahead) for _ in backbones]
        wanted = ahead.wanted.nonzero(as_tuple=True)
        if not len(wanted[0]):
            return found
        states = self.states_ahead(ahead, prefixes)[wanted]
        together = min(shared_tokens(one) for one in backbones) // len(backbones)
        apart = [len(states)] if len(prefixes) == 1 else wanted[0].unique(return_counts=True)[1].tolist()
        sizes = together or apart  # each prefix's rows as without others
        for own, *places in zip(states.split(sizes), *(index.split(sizes) for index in wanted), strict=True):
            for log_p, said in zip(found, self._said_by(backbones, own[None]), strict=True):
                log_p[tuple(places)] = said
        return found

    def _said_by(self, backbones: Sequence[Any], states: Tensor) -> tuple[Tensor, ...]:
        """Log p by each of some backbones for states (1, n, H): (n, V) each."""
        if len(backbones) == 1:
            return (torch.log_softmax(backbones[0].logits(states), dim=-1)[0],)
        reader: Any = self.reader
        corrected = torch.cat([one.scored(states) for one in backbones], dim=1)
        return tuple(torch.log_softmax(reader.logits(corrected), dim=-1)[0].split(states.shape[1]))

    def _silence(self, ahead: Lookahead) -> Tensor:
        """No prediction at the positions of a lookahead: (b, C, V)."""
        return torch.full((*ahead.places.shape, self.process.vocabulary), math.nan, device=ahead.places.device)

    def _commit(self, tokens: Tensor, prefix: Prefix) -> Prefix:
        grown = prefix.followed_by(tokens, 1)
        if prefix.slides and grown.tokens.shape[1] > self.room:
            return self._read(grown.last(self._half))
        size = self.backbone.block_size
        memory = self._read_to(_anchored(tokens[:, :-1], prefix), prefix)
        cache = memory.cache.first(grown.tokens.shape[1] - 1).spaced(1 + size)
        return replace(grown, cache=CanvasMemory.of(cache, memory.states[:, tokens.shape[1] - 1], size))

    def flops(self, length: int, seen: int) -> int:
        """Estimate the FLOPs of a step: the token that was revealed last is read, and the next one is predicted."""
        return super().flops(1, seen + length)

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


class BranchingCausalDenoiser(StepwiseCausalDenoiser):
    """The same for several texts after one prompt: it is read once, and rows of the same prompt share passes.

    A pass over eight rows takes about twice as long as one over a single row, of which it is the same but for rounding.
    """

    def _together(self, orders: Mapping[int, ReadingOrder]) -> Iterator[Mapping[int, ReadingOrder]]:
        alike: dict[tuple[int, ...], dict[int, ReadingOrder]] = {}
        for row, order in orders.items():
            alike.setdefault(tuple(order.tokens), {})[row] = order
        yield from alike.values()

    def _read(self, prefix: Prefix) -> Prefix:
        if bool((prefix.tokens != prefix.tokens[:1]).any()):  # once the window has slid
            return super()._read(prefix)
        one: CanvasMemory = super()._read(prefix.row(0)).cache
        return replace(prefix, cache=one.repeated(len(prefix.rows)))


def _anchored(tokens: Tensor, prefix: Prefix) -> Tensor:
    """Tokens (b, n) behind the last one of a prefix: (b, 1 + n)."""
    return torch.cat([prefix.tokens[:, -1:], tokens], dim=1)


def _causal(length: int, prefix: Tensor) -> Tensor:
    """A mask by which a canvas of this length sees a prefix (b, P) and itself from the left: (L, P + L) bool."""
    width = prefix.shape[1]
    return torch.ones(length, width + length, dtype=torch.bool, device=prefix.device).tril(width)
