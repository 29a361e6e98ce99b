"""Training samples: windows that documents are packed into, in an order that depends on the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssdcli.data.infilling import Infilling
from ssdcli.data.marking import CLOSING, GIVEN
from ssdcli.data.token_store import Tokens, TokenStore
from ssdcli.engine.noise import CounterNoise, fold
from ssdcli.engine.packed import Packed
from ssdcli.options.checks import seed_word


@dataclass(frozen=True)
class _Run:
    """Consecutive tokens that are all given, or all to be written.

    start: the first of its tokens.
    stop: the place after its last token.
    first: columns of its first block.
    columns: columns in all; blocks after the first are whole.
    """

    start: int
    stop: int
    first: int
    columns: int


def in_blocks(tokens: Tokens, marks: Tokens, lead: int, size: int) -> Packed:
    """Place one document in whole blocks: (1, columns).

    A plain document has `lead` columns in its first block, then blocks of `size`. In a conversation, each answer begins
    a block and each prompt ends one, as in generation.

    The last block is filled up with tokens of the document itself, outside of the loss, since the length of a canvas
    must not reveal where the text ends. Ends of text are no filling: inside the loss they would teach a model to put
    ends at the last positions of every canvas, and samplers would return empty texts; outside of it, nothing would
    teach a model that what it predicts after an end is meaningless, and it would not end.

    tokens, marks: (n,), with the ends of text before and after the document.
    """
    parts, block, position = [], 0, 0
    marks = np.concatenate([[GIVEN], marks[1:]])
    for run in _runs(marks, lead, size):
        column = np.arange(run.columns)
        real = column < run.stop - run.start
        place = np.where(real, run.start + column, 1 + (column - run.stop + run.start) % (len(tokens) - 2))
        known = real & (marks[place] != CLOSING)
        blocks = block + np.maximum(column - run.first + size, 0) // size
        scored = real & (marks[place] != GIVEN)
        parts.append((tokens[place].astype(np.int64), blocks, position + column, known, scored))
        block, position = int(blocks[-1]) + 1, position + int(known.sum())
    tokens_, blocks_, positions, known_, scored_ = (
        torch.from_numpy(np.concatenate(columns))[None] for columns in zip(*parts, strict=True)
    )
    return Packed(tokens_, blocks_, positions, torch.zeros_like(blocks_), known_, scored_)


def plain_width(tokens: int, lead: int, size: int) -> int:
    """The columns of a plain document of so many tokens, both ends of text included."""
    return lead + max(0, -(-(tokens - lead) // size)) * size


def conversation_width(marks: Tokens, size: int) -> int:
    """The columns of a conversation with these marks, both ends of text included."""
    return sum(run.columns for run in _runs(np.concatenate([[GIVEN], marks[1:]]), size, size))


def _runs(marks: Tokens, lead: int, size: int) -> Iterator[_Run]:
    """Cut a document where prompts and answers meet."""
    given = marks == GIVEN
    if not given[1:].any():
        yield _Run(0, len(marks), lead, plain_width(len(marks), lead, size))
        return
    edges = [0, *(np.flatnonzero(given[1:] != given[:-1]) + 1).tolist(), len(marks)]
    for start, stop in pairwise(edges):
        length, blocks = stop - start, -(-(stop - start) // size)
        if given[start]:
            yield _Run(start, stop, length - (blocks - 1) * size, length)
        else:
            yield _Run(start, stop, size, blocks * size)


_GAPS = 1  # names the draws for a text's gap
_WAITING = 64  # documents among which one is sought that fits into the rest of a window
_CHUNK = 1 << 20

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Documents in a stream of tokens, see `TokenStore`.

    tokens: (N,).
    marks: (N,), of the tokens.
    starts: (D,), the place of each document's first token, after an end of text.
    stops: (D,), the place after its last token, of another end of text.
    """

    tokens: Tokens
    marks: Tokens
    starts: Integers
    stops: Integers

    @classmethod
    def of(cls, store: TokenStore) -> Corpus:
        """The training side of a store."""
        starts, stops, _ = np.array(store.train_documents, dtype=np.int64).T
        return cls(store.train, store.train_marks, starts, stops)

    def conversations(self) -> Integers:
        """The numbers of the documents that are conversations, in ascending order."""
        found: list[Integers] = []
        for first in range(0, len(self.marks), _CHUNK):
            given = first + np.flatnonzero(self.marks[first : first + _CHUNK] == GIVEN)
            found.append(np.unique(np.searchsorted(self.starts, given, "right") - 1))
        return np.unique(np.concatenate(found))


@dataclass(frozen=True)
class WindowShape:
    """The shape of a training sample.

    length: tokens of a window.
    block: tokens of a block.
    infilling: how gaps are opened in its texts, if they are.
    """

    length: int
    block: int
    infilling: Infilling | None = None


@dataclass(frozen=True)
class _Epoch:
    """Where documents lie in the windows of an epoch, put end to end.

    documents: (n,), numbers of documents in the order of their places.
    starts: (n,), the first column of each.
    stops: (n,), the column after its last.
    leads: (n,), columns in the first block of each plain document.
    windows: (w,), the order in which the windows are served.
    """

    documents: Integers
    starts: Integers
    stops: Integers
    leads: Integers
    windows: Integers


class Windows(Dataset[dict[str, Tensor | dict[str, Tensor]]]):
    """Endless epochs over documents, which are packed anew in each; sample i is always the same.

    A plain document is cut where a window ends; a conversation that fits into a window stays whole.
    """

    def __init__(self, corpus: Corpus, shape: WindowShape, seed: int, samples: int) -> None:
        """`samples` is the number of samples to claim; the epochs are endless."""
        self._corpus = corpus
        self._shape = shape
        self.length = shape.length
        self._seed = seed
        self._samples = samples
        talks = corpus.conversations()
        self._is_talk = np.zeros(len(corpus.starts), dtype=bool)
        self._is_talk[talks] = True
        self._talk_widths = {int(d): conversation_width(self._document(int(d))[1], shape.block) for d in talks}
        self._firsts = [0]  # of each epoch that was packed, and of the next one
        self._number = -1
        self._epoch: _Epoch

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Tensor | dict[str, Tensor]]:
        epoch, window = self._find(index)
        pieces = list(self._pieces(epoch, window, index))
        left = self.length - sum(piece.length for piece in pieces)
        packed = Packed.joined([*pieces, *([Packed.padding(left)] if left else [])])
        return {
            "columns": {name: column[0] for name, column in vars(packed).items()},
            "index": torch.tensor(index),
        }

    def _find(self, index: int) -> tuple[_Epoch, int]:
        """The epoch of a sample, and its window there."""
        while index >= self._firsts[-1]:
            self._turn_to(len(self._firsts) - 1)
            self._firsts.append(self._firsts[-1] + len(self._epoch.windows))
        number = int(np.searchsorted(self._firsts, index, "right")) - 1
        self._turn_to(number)
        return self._epoch, int(self._epoch.windows[index - self._firsts[number]])

    def _turn_to(self, number: int) -> None:
        if number != self._number:
            self._epoch, self._number = self._pack(number), number

    def _pack(self, number: int) -> _Epoch:
        """Pack all documents into windows, in a new order; the first ones return to fill up the last window."""
        random = np.random.default_rng((seed_word(self._seed), number))
        order = random.permutation(len(self._is_talk))
        leads = random.integers(1, self._shape.block + 1, len(order))
        widths = np.array([self._width(d, int(leads[d])) for d in range(len(order))], dtype=np.int64)
        placed, windows = self._placed(order, widths)
        documents, starts = np.array(placed, dtype=np.int64).T
        stops = starts + widths[documents]
        return _Epoch(documents, starts, stops, leads[documents], random.permutation(windows))

    def _width(self, document: int, lead: int) -> int:
        if self._is_talk[document]:
            return self._talk_widths[document]
        tokens = int(self._corpus.stops[document] - self._corpus.starts[document]) + 2
        return plain_width(tokens, lead, self._shape.block)

    def _placed(self, order: Integers, widths: Integers) -> tuple[list[tuple[int, int]], int]:
        """The documents with their places, and how many windows they fill.

        Each is placed in its turn, but a conversation waits for a window with enough room.
        """
        whole = self._is_talk & (widths <= self.length)
        coming = zip(count(), cycle(order.tolist()), strict=False)
        waiting = deque(islice(coming, _WAITING))
        placed: list[tuple[int, int]] = []
        place, left, end = 0, len(order), 0
        while left or place < end:
            room = self.length - place % self.length
            fitting = next((turn for turn in waiting if not whole[turn[1]] or widths[turn[1]] <= room), None)
            if fitting is None:
                place += room
                continue
            waiting.remove(fitting)
            waiting.append(next(coming))
            turn, document = fitting
            placed.append((document, place))
            place += int(widths[document])
            if turn < len(order):
                left, end = left - 1, -(-place // self.length) * self.length
        return placed, end // self.length

    def _pieces(self, epoch: _Epoch, window: int, index: int) -> Iterator[Packed]:
        """Yield the parts of documents in a window, in order; those of plain ones may get a gap."""
        low, high = window * self.length, (window + 1) * self.length
        first, last = np.searchsorted(epoch.stops, low, "right"), np.searchsorted(epoch.starts, high)
        for place in range(int(first), int(last)):
            document, start = int(epoch.documents[place]), int(epoch.starts[place])
            text = in_blocks(*self._document(document), int(epoch.leads[place]), self._shape.block)
            piece = text.cut(max(low - start, 0), min(high - start, text.length))
            infilling = self._shape.infilling
            if infilling is not None and not self._is_talk[document]:
                noise = CounterNoise([fold(self._seed, index, place, _GAPS)])
                piece = infilling.open(piece, self._shape.block, noise)
            yield piece

    def _document(self, number: int) -> tuple[Tokens, Tokens]:
        """A document's tokens and marks, with the ends of text before and after it."""
        here = slice(int(self._corpus.starts[number]) - 1, int(self._corpus.stops[number]) + 1)
        return self._corpus.tokens[here], self._corpus.marks[here]
