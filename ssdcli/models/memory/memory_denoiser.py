"""A text as a member of a masked ensemble: what followed the tokens before a position, wherever they stand in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, repeat, takewhile
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.lookahead import Lookahead
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.race import Race
from ssdcli.models.memory.memory_files import Memory, Origin
from ssdcli.models.memory.text_index import BORDER, DEPTH, Followers, Index
from ssdcli.models.memory.written_text import WrittenText
from ssdcli.registry.names import CONTEXT_SOURCE

DISCOUNT = 0.65  # beside a real core, on real notes, the best of 0.3 to 0.9

_ENDLESS = 1 << 40  # tokens of a prompt, all of which it may read
CONTEXTS = 4  # private contexts whose indexes are kept

_LONGEST = 4  # contexts whose followers are drafted from
_FAINT = 0.05  # the chance of all of a draft below which it is not continued

Known = Sequence[int | None]


@dataclass(frozen=True)
class Surroundings:
    """What is known around the canvas of a row.

    written: the text before it, BORDER in front.
    after: the tokens behind it, None for one that is not known.
    private: an index of the private context, None without one.
    """

    written: WrittenText
    after: tuple[int | None, ...] = ()
    private: Index | None = None

    def followed_by(self, tokens: Sequence[int]) -> Surroundings:
        """The same after more text."""
        return replace(self, written=self.written.followed_by(tokens))


class MemoryDenoiser:
    """Predicts a hidden token whose left neighbour is known; abstains elsewhere, and where it holds no text at all.

    The prediction is that of interpolated absolute discounting (Ney, Essen and Kneser, 1994) over contexts of growing
    length: p_k(w) = (max(c_k(w) - D, 0) + D T_k p_{k-1}(w)) / n_k, where c_k counts what follows the last k tokens, T_k
    is the number of different followers and n_k their sum; p_0 is uniform over the ids that are text. The contexts are
    those of the indexed text, then those of a private context, then the longer ones of the text that is being written.
    Where tokens behind a hidden position are known, matches on both sides count as still longer contexts.

    It has no window: all of the text before a canvas counts.
    """

    abstains = True
    same_on_any_threads = True

    def __init__(self, memory: Memory, process: Masked, block_size: int, excluded: Iterable[int] = ()) -> None:
        """Predict from a memory; ids in `excluded` are never text."""
        self.memory = memory
        self.process = process
        self.block_size = block_size
        self.device = torch.device("cpu")
        text = torch.ones(process.vocabulary, dtype=torch.float64)
        text[[process.mask_id, *excluded]] = 0
        self._uniform = text / text.sum()
        self._shortest: tuple[Index, Tensor] | None = None

    @property
    def index(self) -> Index:
        """The index of the text."""
        return self.memory.index

    @property
    def context(self) -> int:
        """The longest window, in tokens: there is no limit."""
        return _ENDLESS

    @property
    def room(self) -> int:
        """The longest prefix, in tokens, that leaves space for a canvas."""
        return _ENDLESS - self.block_size

    @property
    def sight(self) -> int:
        """How many tokens after a gap it should be shown: those that a context may hold."""
        return self.index.depth

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        """FLOPs of generating after a prompt, a pair a block: it computes none."""
        return repeat((0, 0))

    def start(self, prompts: Sequence[Prompt]) -> Any:
        """What is known around the canvas of each prompt: a tuple of `Surroundings`."""
        return tuple(self._surroundings(prompt) for prompt in prompts)

    def _surroundings(self, prompt: Prompt) -> Surroundings:
        written = WrittenText([BORDER, *prompt.before], self.index.depth)
        private = indexed(tuple(prompt.private), self.index.depth) if prompt.private else None
        return Surroundings(written, tuple(prompt.after[: self.sight]), private)

    def commit(self, tokens: Tensor, prefix: Any) -> Any:
        """The surroundings after a clean block (B, L)."""
        rows = zip(prefix, tokens.tolist(), strict=True)
        return tuple(row.followed_by(block) for row, block in rows)

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, prefix: Any) -> Tensor:
        """Log p of the clean tokens of canvases (B, L): (B, L, V) float32, NaN where it abstains.

        Known positions are NaN as well. The noise level and the previous prediction are not read.
        """
        log_p = torch.full((*canvas.shape, self.process.vocabulary), math.nan)
        for b, (tokens, row) in enumerate(zip(canvas.tolist(), prefix, strict=True)):
            if not self._holds_text(row):
                continue
            known = [None if token == self.process.mask_id else token for token in tokens]
            for place in beginnings(known, row.written.tokens):
                log_p[b, place] = self._log_p(row, known[:place], known[place + 1 :])
        return log_p.to(canvas.device)

    def ahead(self, ahead: Lookahead, prefix: Any) -> Tensor:
        """Log p at the positions of a lookahead, where the text being written includes the draft: (B, C, V) float32.

        NaN where none is wanted.
        """
        log_p = torch.full((*ahead.places.shape, self.process.vocabulary), math.nan)
        rows = zip(ahead.canvas.tolist(), ahead.first.tolist(), ahead.drafted.tolist(), prefix, strict=True)
        for b, (tokens, first, drafted, row) in enumerate(rows):
            if drafted < 0 or not self._holds_text(row):
                continue
            written = row.written.followed_by(tokens[:first])
            for column in range(min(drafted + 1, len(tokens) - first)):
                place = first + column
                after = [*[None] * (len(tokens) - place - 1), *row.after]
                here = replace(row, written=written)
                log_p[b, column] = self.log_p(written.tokens[-self.index.depth :], after, here)
                written = written.followed_by(tokens[place : place + 1]) if column < drafted else written
        return log_p.to(ahead.canvas.device)

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: Any) -> Draft:
        """What followed the longest context before each place, drawn by the race; see `Drafter`."""
        rows = zip(canvas.tolist(), prefix, strict=True)
        drafts = [self._draft(place, tokens, race, count, row) for place, (tokens, row) in enumerate(rows)]
        width = max(len(tokens) for tokens, _ in drafts)
        ids = [[*tokens, *[-1] * (width - len(tokens))] for tokens, _ in drafts]
        sure = [[*likely, *[0.0] * (width - len(likely))] for _, likely in drafts]
        return Draft(
            torch.tensor(ids, dtype=torch.int64).view(len(ids), width), torch.tensor(sure).view(len(ids), width)
        )

    def _draft(
        self, number: int, canvas: Sequence[int], race: Race, count: int, row: Surroundings
    ) -> tuple[list[int], list[float]]:
        """The draft of one row: ids, and how sure it is of each."""
        known = _first_known([None if token == self.process.mask_id else token for token in canvas])
        before, ids, sure = [*row.written.tokens[-self.index.depth :], *known], list[int](), list[float]()
        for place in range(len(known), min(len(known) + count, len(canvas))):
            candidates, p = self._likely(before, row)
            if not len(candidates):
                break
            chosen = race.winner(candidates, p.log(), number, place)
            if candidates[chosen] < 0:  # a text ends here
                break
            ids.append(int(candidates[chosen]))
            sure.append(float(p[chosen]))
            before.append(ids[-1])
            if math.prod(sure) < _FAINT:
                break
        return ids, sure

    def _likely(self, before: Sequence[int], row: Surroundings) -> tuple[Tensor, Tensor]:
        """The tokens that follow the longest contexts before a place, (T,) int64, and their p, (T,) float32."""
        known = before[-self.index.depth :]
        levels = [*self._of_index(known), *self._levels(known, (), row)][-_LONGEST:]
        ids, p, left = [], [], 1.0
        for followers in reversed(levels):
            own, rest = _discounted(followers)
            ids.append(torch.from_numpy(followers.ids))
            p.append(left * own)
            left *= rest
        if not ids:
            return torch.empty(0, dtype=torch.int64), torch.empty(0)
        distinct, place = torch.cat(ids).unique(return_inverse=True)
        return distinct, torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, place, torch.cat(p)).float()

    def _holds_text(self, row: Surroundings) -> bool:
        """Whether there is an indexed text or a private context to look things up in."""
        return bool(self.index.size) or (row.private is not None and bool(row.private.size))

    def _log_p(self, row: Surroundings, left: Known, right: Known) -> Tensor:
        """Log p at a place of a row's canvas by what stands on its left and right there."""
        shown = _first_known(left)
        row = row.followed_by(shown)
        before = _last_known([*row.written.tokens[-self.index.depth :], *left[len(shown) :]])
        return self.log_p(before, [*right, *row.after], row)

    def log_p(self, before: Sequence[int], after: Known = (), row: Surroundings | None = None) -> Tensor:
        """Log p of a token by the known tokens before it and those behind it: (V,) float32.

        row: what else there is to look up, the private context and the text before the token.
        """
        p = interpolated(self._without_context(), [*self._of_index(before), *self._levels(before, after, row)])
        return p.float().log_()

    def _without_context(self) -> Tensor:
        """The prediction after no token at all, which is computed once for an index: (V,) float64."""
        if self._shortest is None or self._shortest[0] is not self.index:
            self._shortest = self.index, interpolated(self._uniform, list(islice(self.index.followers(()), 1)))
        return self._shortest[1]

    def conditionals(self, text: Sequence[int], places: Iterable[int], private: Sequence[int] = ()) -> Iterator[Tensor]:
        """Log p of the tokens at some places of a text, in order, each by all that stands before it: (V,) float32.

        NaN where it holds no text. private: ids of a private context.
        """
        (row,) = self.start([Prompt((), private=private)])
        for place in places:
            row.written.extend(text[len(row.written.tokens) - 1 : place])  # the first is BORDER
            before = row.written.tokens[-self.index.depth :]
            yield self.log_p(before, (), row) if self._holds_text(row) else self._uniform.float() * math.nan

    def recent(self, prompt: Prompt, count: int, prefix: Any, row: int) -> Iterator[Tensor]:
        """Log p of the last tokens of a prompt, each by those before it: (V,) float32 each."""
        length = len(prompt.before)
        return self.conditionals(prompt.before, range(length - count, length), prompt.private)

    def _of_index(self, before: Sequence[int]) -> Iterator[Followers]:
        yield from islice(self.index.followers(before), 1, None)  # the first is `_without_context`

    def _levels(
        self, before: Sequence[int], after: Known, row: Surroundings | None, *, written: bool = True
    ) -> Iterator[Followers]:
        """The contexts beside those of the index; written: whether those of the text that is written are among them."""
        private = [] if row is None or row.private is None else [row.private]
        for index in private:
            yield from index.followers(before)
        if row is not None and written:
            yield from row.written.followers(before)
        gap = next((place for place, token in enumerate(after) if token is not None), None)
        if gap is not None:
            for index in (self.index, *private):
                yield from index.between(before, _first_known(after[gap:]), gap + 1)


def interpolated(p: Tensor, levels: Sequence[Followers]) -> Tensor:
    """A prediction (V,) float64 with longer and longer contexts before it: (V,) float64."""
    added, left = [], 1.0  # what longer contexts leave to shorter ones
    for followers in reversed(levels):
        own, rest = _discounted(followers)
        added.append((torch.from_numpy(followers.ids), left * own))
        left *= rest
    p = p * left
    for ids, own in added:
        p.index_add_(0, ids, own)
    return p


def _discounted(followers: Followers) -> tuple[Tensor, float]:
    """What a context gives to each of its followers, (T,) float64, and what it leaves to shorter contexts."""
    counts = torch.from_numpy(followers.counts).double()
    total = float(counts.sum())
    return (counts - DISCOUNT) / total, DISCOUNT * len(counts) / total


@lru_cache(maxsize=CONTEXTS)
def indexed(context: tuple[int, ...], depth: int) -> Index:
    """The index of a private context, which all blocks of a text and all texts beside it share."""
    return Index.of([context], depth)


def memory_of_context(context: Sequence[int], depth: int = DEPTH) -> Memory:
    """A private context as a memory of one text, which is the one that is looked up."""
    return Memory(indexed(tuple(context), depth), (Origin(CONTEXT_SOURCE),))


def beginnings(known: Known, before: Sequence[int]) -> Iterator[int]:
    """The hidden places of a canvas whose left neighbour is known, or that begin a text."""
    left: int | None = before[-1] if before else None
    for place, token in enumerate(known):
        if token is None and left is not None:
            yield place
        left = token


def _last_known(tokens: Known) -> list[int]:
    """The known tokens at the end."""
    return _first_known(tokens[::-1])[::-1]


def _first_known(tokens: Known) -> list[int]:
    """The known tokens at the beginning."""
    return [token for token in takewhile(lambda token: token is not None, tokens) if token is not None]
