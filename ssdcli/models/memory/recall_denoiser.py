"""A memory that recalls: beside a causal core that has read its text, it reads what the core reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.ensemble.ensemble import JoinedPrefix
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.race import Race
from ssdcli.models.memory.memory_denoiser import (
    CONTEXTS,
    Known,
    MemoryDenoiser,
    Surroundings,
    beginnings,
    indexed,
    interpolated,
)
from ssdcli.models.memory.memory_files import Memory
from ssdcli.models.memory.recall import PlaceScores, Recall
from ssdcli.models.memory.text_index import BORDER

_WINDOW = 1024  # tokens of a private context that the core reads at once
_MOST_PRIVATE = 1 << 13  # that it reads in all: some seconds; the rest is looked up
_AT_ONCE = 16  # tokens of a text that are predicted together
_RECALLED = 0.95  # of the prediction, where all of a text has keys; the contexts' own gives each id a chance (measured)


@dataclass(frozen=True)
class RecalledSurroundings(Surroundings):
    """The same with the places of a private context that the core has read.

    places: None without one.
    """

    places: PlaceScores | None = None


class RecallDenoiser(MemoryDenoiser):
    """Predicts the leftmost hidden token by what followed the places that the core reads alike.

    That takes the place of the contexts of the indexed text; those of a private context, and of tokens behind a gap,
    count as longer ones, as ever. Elsewhere it is the memory that it would be without recall.
    """

    def __init__(self, memory: Memory, core: CausalDenoiser, word_of: Callable[[int], str], opening: int) -> None:
        """Predict from a memory beside the core that has read it; ValueError for one that no core has read.

        word_of: the word that an id writes, see `PlaceScores`.
        opening: the id that the core reads before a text.
        """
        super().__init__(memory, core.process, core.block_size)
        if memory.recall is None:
            raise ValueError("this memory holds no keys to recall by")
        self.core = core
        self.same_on_any_threads = core.same_on_any_threads
        self._word_of = word_of
        self._opening = opening
        self._metric = memory.recall.metric
        self._scored: tuple[Memory, PlaceScores] | None = None
        self._read_private = lru_cache(maxsize=CONTEXTS)(self._read)

    @property
    def reader(self) -> object:
        """The core, whose prefix it shares."""
        return self.core.reader

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs of generating after a prompt, a pair a block: those of the core's reading."""
        return self.core.costs(prompt)

    def beside_reader(self) -> MemoryDenoiser:
        """The same as far as costs go, where another member reads all text for it."""
        return MemoryDenoiser(self.memory, self.process, self.block_size)

    def start(self, prompts: Sequence[Prompt]) -> JoinedPrefix:
        """What is known around the canvas of each prompt, and what the core reads of it."""
        return self.joined(prompts, self.core.start([self.shown(prompt) for prompt in prompts]))

    def joined(self, prompts: Sequence[Prompt], read: object) -> JoinedPrefix:
        """The same where the core has read the prompts already."""
        return JoinedPrefix(super().start(prompts), read)

    def commit(self, tokens: Tensor, prefix: JoinedPrefix) -> JoinedPrefix:
        """Both after a clean block (B, L)."""
        return JoinedPrefix(self.commit_own(tokens, prefix.own), self.core.commit(tokens, prefix.read))

    def commit_own(self, tokens: Tensor, own: tuple[Surroundings, ...]) -> tuple[Surroundings, ...]:
        """The surroundings after a clean block (B, L)."""
        grown: tuple[Surroundings, ...] = super().commit(tokens, own)
        return grown

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: JoinedPrefix) -> Tensor:
        """Log p of the clean tokens of canvases (B, L): (B, L, V) float32, NaN where it abstains."""
        log_p = torch.full((*canvas.shape, self.process.vocabulary), math.nan)
        queries = self.queries(self.core.states_at(canvas, prefix.read))
        for b, (tokens, row) in enumerate(zip(canvas.tolist(), prefix.own, strict=True)):
            if not self._holds_text(row):
                continue
            known = [None if token == self.process.mask_id else token for token in tokens]
            for place in beginnings(known, row.written.tokens):
                left, right = known[:place], known[place + 1 :]
                if None in left:
                    log_p[b, place] = self._log_p(row, left, right)
                else:
                    before = [*row.written.tokens, *tokens[:place]]
                    (log_p[b, place],) = self.recalled(queries[b : b + 1], [before], [right], row)
        return log_p.to(canvas.device)

    def ahead(self, ahead: Lookahead, prefix: JoinedPrefix) -> Tensor:
        """Log p at the positions of a lookahead: (B, C, V) float32, NaN where none is wanted."""
        log_p = torch.full((*ahead.places.shape, self.process.vocabulary), math.nan)
        if bool((ahead.drafted < 0).all()):
            return log_p.to(ahead.canvas.device)
        states = self.core.states_ahead(ahead, prefix.read)
        rows = zip(ahead.canvas.tolist(), ahead.first.tolist(), ahead.drafted.tolist(), prefix.own, strict=True)
        for b, (tokens, first, drafted, row) in enumerate(rows):
            if drafted < 0 or not self._holds_text(row):
                continue
            places = range(first, min(first + drafted + 1, len(tokens)))
            befores = [[*row.written.tokens, *tokens[:place]] for place in places]
            rights = [[None] * (len(tokens) - place - 1) for place in places]
            queries = self.queries(states[b, : len(places)])
            for column, own in enumerate(self.recalled(queries, befores, rights, row)):
                log_p[b, column] = own
        return log_p.to(ahead.canvas.device)

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: JoinedPrefix) -> Draft:
        """As without recall, which needs a state for each token."""
        return super().draft(canvas, race, count, prefix.own)

    def shown(self, prompt: Prompt) -> Prompt:
        """What the core reads of a prompt."""
        return replace(prompt, after=(), private=())

    def _surroundings(self, prompt: Prompt) -> RecalledSurroundings:
        row = super()._surroundings(prompt)
        places = self._read_private(tuple(prompt.private)) if prompt.private else None
        return RecalledSurroundings(row.written, row.after, row.private, places)

    def _places(self, row: RecalledSurroundings) -> Iterator[PlaceScores]:
        """The texts whose places are recalled beside a row: that of the memory as it is now, and a private context."""
        memory = self.memory
        if memory.recall is not None and len(memory.recall.places):
            if self._scored is None or self._scored[0] is not memory:
                self._scored = memory, PlaceScores(memory.index, memory.recall, self._word_of)
            yield self._scored[1]
        if row.places is not None:
            yield row.places

    def _read(self, context: tuple[int, ...]) -> PlaceScores:
        """The first _MOST_PRIVATE tokens of a private context, which the core reads in passes of their own."""
        index, keys = indexed(context, self.index.depth), list[Tensor]()
        width, count = min(_WINDOW, self.core.context), min(len(context), _MOST_PRIVATE)
        for start in range(0, count, width):
            part = [self._opening, *context[start : min(start + width, count) - 1]]
            states = self.core.states(torch.tensor([part], device=self.core.device))[0]
            keys.append(self.queries(states).bfloat16())
        return PlaceScores(index, Recall(self._metric, np.arange(1, 1 + count), torch.cat(keys)), self._word_of)

    def queries(self, states: Tensor) -> Tensor:
        """What the core's states (..., (1 + k) H) look for, each as it would alone: (..., D) float32, on the CPU."""
        one_by_one = states.cpu().reshape(-1, states.shape[-1]).split(1)  # a product rounds otherwise for more
        return torch.cat([self._metric(state) for state in one_by_one]).view(*states.shape[:-1], -1)

    def recalled(
        self, queries: Tensor, befores: Sequence[Sequence[int]], rights: Sequence[Known], row: RecalledSurroundings
    ) -> Iterator[Tensor]:
        """Log p of the tokens between what stands on their left and right, by the queries there (C, D): (V,) float32.

        befores: what the row has written, and what follows that. Places are compared with all queries at once.
        """
        texts = list(self._places(row))
        if not texts:
            for before, right in zip(befores, rights, strict=True):
                yield self._log_p(row.followed_by(before[len(row.written.tokens) :]), (), right)
            return
        share = _RECALLED * self._share_with_keys(texts, row)
        found = zip(*(one.best(queries, befores) for one in texts), strict=True)
        for before, right, best in zip(befores, rights, found, strict=True):
            scores, tokens = (torch.cat(both) for both in zip(*best, strict=True))
            known = before[-self.index.depth :]
            p = (1 - share) * interpolated(self._without_context(), list(self._of_index(known)))
            p.index_add_(0, tokens, share * torch.softmax(scores, dim=0).double())
            p = interpolated(p, list(self._levels(known, [*right, *row.after], row, written=False)))
            yield p.float().log_()

    def _share_with_keys(self, places: Sequence[PlaceScores], row: Surroundings) -> float:
        """The share of the places of all texts beside a row that can be recalled; the others are looked up."""
        size = self.index.size + (0 if row.private is None else row.private.size)
        return sum(len(one.recall.places) for one in places) / size

    def recent(self, prompt: Prompt, count: int, prefix: JoinedPrefix, row: int) -> Iterator[Tensor]:
        """As without recall, by what the core has read."""
        length, states = len(prompt.before), self.core.recent_states(count, prefix.read, row)
        return self.conditionals(prompt.before, range(length - count, length), prompt.private, states)

    def conditionals(
        self, text: Sequence[int], places: Iterable[int], private: Sequence[int] = (), states: Tensor | None = None
    ) -> Iterator[Tensor]:
        """As without recall; states: the core's before each of the places, (n, (1 + k) H)."""
        (row,) = super().start([Prompt((), private=private)])
        if states is None or not list(self._places(row)):
            yield from super().conditionals(text, places, private)
            return
        queries, asked = self.queries(states), list(places)
        for start in range(0, len(asked), _AT_ONCE):
            befores = [[BORDER, *text[:place]] for place in asked[start : start + _AT_ONCE]]
            yield from self.recalled(queries[start : start + _AT_ONCE], befores, [()] * len(befores), row)
