"""Training samples: windows packed with documents, in an order that is a function of the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssdcli.data.infilling import Infilling
from ssdcli.data.layout import conversation_width, lay_out, plain_width
from ssdcli.data.marking import GIVEN
from ssdcli.data.token_store import Tokens, TokenStore
from ssdcli.engine.noise import CounterNoise, fold
from ssdcli.engine.packed import Packed

_GAPS = 1  # the word that names a text's draws for its gap
_WAITING = 64  # documents among which one is looked for that fits into the rest of a window
_CHUNK = 1 << 20

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Texts:
    """Documents in a stream of tokens (N,) with marks (N,), see `TokenStore`; starts, stops: (D,), ends left out."""

    tokens: Tokens
    marks: Tokens
    starts: Integers
    stops: Integers

    @classmethod
    def of(cls, store: TokenStore) -> Texts:
        """The training side of a store."""
        starts, stops, _ = np.array(store.train_documents, dtype=np.int64).T
        return cls(store.train, store.train_marks, starts, stops)

    def conversations(self) -> Integers:
        """Which documents are conversations, in order."""
        found: list[Integers] = []
        for first in range(0, len(self.marks), _CHUNK):
            given = first + np.flatnonzero(self.marks[first : first + _CHUNK] == GIVEN)
            found.append(np.unique(np.searchsorted(self.starts, given, "right") - 1))
        return np.unique(np.concatenate(found))


@dataclass(frozen=True)
class WindowShape:
    """Tokens of a window and of a block, and the gaps that its texts get, if any."""

    length: int
    block: int
    infilling: Infilling | None = None


@dataclass(frozen=True)
class _Epoch:
    """Where documents lie in the windows of an epoch, put end to end: (n,) int64 each, in the order of the places.

    leads: the columns in the first blocks of plain documents. windows: in what order the windows come.
    """

    documents: Integers
    starts: Integers
    stops: Integers
    leads: Integers
    windows: Integers


class Windows(Dataset[dict[str, Tensor | dict[str, Tensor]]]):
    """Endless epochs over documents, packed anew in each; sample i is always the same.

    Plain documents are cut where a window ends; a conversation that fits into a window is whole.
    """

    def __init__(self, texts: Texts, shape: WindowShape, seed: int, samples: int) -> None:
        """`samples` bounds the index."""
        self._texts = texts
        self._shape = shape
        self.length = shape.length
        self._seed = seed
        self._samples = samples
        talks = texts.conversations()
        self._is_talk = np.zeros(len(texts.starts), dtype=bool)
        self._is_talk[talks] = True
        self._talk_widths = {int(d): conversation_width(self._document(int(d))[1], shape.block) for d in talks}
        self._firsts = [0]  # the first sample of each epoch that was laid out, and the one after
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
        """Put all documents into windows, in a new order; the last window is filled up with the first of them."""
        random = np.random.default_rng((self._seed, number))
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
        tokens = int(self._texts.stops[document] - self._texts.starts[document]) + 2
        return plain_width(tokens, lead, self._shape.block)

    def _placed(self, order: Integers, widths: Integers) -> tuple[list[tuple[int, int]], int]:
        """Documents with their places, and how many windows they fill.

        Each comes in its turn, but for conversations that wait for a window with room.
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
        """The parts of documents in a window, in order; those of plain ones perhaps with a gap."""
        low, high = window * self.length, (window + 1) * self.length
        first, last = np.searchsorted(epoch.stops, low, "right"), np.searchsorted(epoch.starts, high)
        for place in range(int(first), int(last)):
            document, start = int(epoch.documents[place]), int(epoch.starts[place])
            text = lay_out(*self._document(document), int(epoch.leads[place]), self._shape.block)
            piece = text.cut(max(low - start, 0), min(high - start, text.length))
            infilling = self._shape.infilling
            if infilling is not None and not self._is_talk[document]:
                noise = CounterNoise([fold(self._seed, index, place, _GAPS)])
                piece = infilling.open(piece, self._shape.block, noise)
            yield piece

    def _document(self, number: int) -> tuple[Tokens, Tokens]:
        """A document's tokens and marks, with the ends of text before and after it."""
        here = slice(int(self._texts.starts[number]) - 1, int(self._texts.stops[number]) + 1)
        return self._texts.tokens[here], self._texts.marks[here]
