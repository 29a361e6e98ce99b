"""The note that is most like a text, and models that are shown it before the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from benchmarks.lib.corpora import encode
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.gaps import Gap, View
from ssdcli.text.chat import BETWEEN
from ssdcli.text.tokenizer import END_OF_TEXT, special_id

_K1, _B = 1.5, 0.75


class Library:
    """Notes in pieces of some tokens, found by BM25 over their tokens (Robertson and Zaragoza, 2009)."""

    def __init__(self, notes: Sequence[Sequence[int]], length: int) -> None:
        """Cut every note into pieces of at most `length` tokens."""
        self.pieces = [list(note[start : start + length]) for note in notes for start in range(0, len(note), length)]
        lengths = np.array([len(piece) for piece in self.pieces])
        norms = _K1 * (1 - _B + _B * lengths / lengths.mean())
        places: dict[int, list[int]] = {}
        counts: dict[int, list[int]] = {}
        for place, piece in enumerate(self.pieces):
            for token, count in Counter(piece).items():
                places.setdefault(token, []).append(place)
                counts.setdefault(token, []).append(count)
        self._gains = {
            token: (np.array(held), self._gain(np.array(counts[token]), norms[held], len(held)))
            for token, held in places.items()
        }

    def _gain(self, counts: np.ndarray, norms: np.ndarray, holders: int) -> np.ndarray:
        """What a token of the query adds to the scores of the pieces that hold it."""
        rarity = math.log(1 + (len(self.pieces) - holders + 0.5) / (holders + 0.5))
        return np.asarray(rarity * counts * (_K1 + 1) / (counts + norms))

    def best(self, query: Sequence[int]) -> list[int]:
        """The piece that is most like a query, the first where none shares a token with it."""
        scores = np.zeros(len(self.pieces))
        for token in set(query):
            if token in self._gains:
                held, gains = self._gains[token]
                scores[held] += gains
        return self.pieces[int(scores.argmax())]


@dataclass(frozen=True)
class Shelf:
    """A library as it is put before texts: `end` opens a document, `between` parts a note from the text after it.

    room: the tokens that a model has before a canvas.
    """

    library: Library
    end: int
    between: Sequence[int]
    room: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Tokenizer, note: int, room: int) -> Shelf:
        """Notes of at most `note` tokens, put before texts as private context is."""
        between = tokenizer.encode(BETWEEN, add_special_tokens=False).ids
        return cls(Library(encode(texts, tokenizer), note), special_id(tokenizer, END_OF_TEXT), between, room)

    def view(self) -> View:
        """What is before a gap, after the note that is most like it; each note is looked for once."""
        found: dict[int, Prompt] = {}

        def shown(gap: Gap) -> Prompt:
            if gap.key not in found:
                found[gap.key] = self._shown([token for token in gap.before if token != self.end])
            return found[gap.key]

        return shown

    def _shown(self, text: Sequence[int]) -> Prompt:
        note = [self.end, *self.library.best(text), *self.between]
        return Prompt([*note, *text[max(0, len(text) + len(note) - self.room) :]])
