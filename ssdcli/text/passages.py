"""The passages of a long text that are most like a query, for models that cannot read all of it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ssdcli.text.messages import BETWEEN

_K1, _B = 1.5, 0.75
_WORD = re.compile(r"\w+")
_PARAGRAPH = re.compile(r"\n\s*\n")
_BREAK = re.compile(r"(?<=[.!?])\s+|\n")
_LONGEST = 600  # characters of a passage
_PIECE = re.compile(rf".{{1,{_LONGEST}}}(?!\S)|.{{1,{_LONGEST}}}")  # up to a space, if there is one


class Bm25:
    """Ranks documents by the terms that they share with a query (Robertson and Zaragoza, 2009)."""

    def __init__(self, documents: Sequence[Sequence[Hashable]]) -> None:
        """Count the terms of each document."""
        self._size = len(documents)
        lengths = np.array([len(document) for document in documents], np.float64)
        norms = _K1 * (1 - _B + _B * lengths / max(1.0, float(lengths.mean()))) if self._size else lengths
        counts: dict[Hashable, dict[int, int]] = {}  # of each term in each document that has it
        for place, document in enumerate(documents):
            for term, count in Counter(document).items():
                counts.setdefault(term, {})[place] = count
        self._gains: dict[Hashable, tuple[list[int], NDArray[np.float64]]] = {}
        for term, found in counts.items():
            places, often = list(found), np.array(list(found.values()), np.float64)
            rarity = math.log(1 + (self._size - len(places) + 0.5) / (len(places) + 0.5))
            self._gains[term] = places, rarity * often * (_K1 + 1) / (often + norms[places])

    def ranked(self, query: Iterable[Hashable]) -> list[int]:
        """The numbers of all documents, the most like a query first; in their own order where none shares a term."""
        scores = np.zeros(self._size)
        for term in set(query) & self._gains.keys():
            places, gains = self._gains[term]
            scores[places] += gains
        return [int(place) for place in np.argsort(-scores, kind="stable")]


def most_relevant(text: str, query: str, length: Callable[[str], int], most: int) -> str:
    """The passages of a text that are most like a query, in the text's order, as far as there is room; one at least.

    length: of a passage, in tokens. most: tokens of all of them.
    """
    best = ranked_passages(text, query)
    chosen, left = best[:1], most
    for passage in best:
        left -= length(passage.text + BETWEEN)
        if left < 0:
            break
        chosen.append(passage)
    return joined(chosen)


@dataclass(frozen=True, order=True)
class TextPassage:
    """A part of a text.

    place: its number among the passages of the text, from 0.
    text: what it says.
    first, last: its lines in the text, from 1.
    """

    place: int
    text: str
    first: int
    last: int


def joined(passages: Iterable[TextPassage]) -> str:
    """Passages of one text in its order, with empty lines between them."""
    return BETWEEN.join(passage.text for passage in sorted(set(passages)))


def ranked_passages(text: str, query: str) -> list[TextPassage]:
    """All passages of a text, those first that share most rare words with a query."""
    parts, ranking = _indexed(text)
    return [parts[place] for place in ranking.ranked(_words(query))]


@lru_cache(maxsize=2)
def _indexed(text: str) -> tuple[list[TextPassage], Bm25]:
    """The passages of a text, and what ranks them."""
    parts, at, line = list[TextPassage](), 0, 1
    for number, sentences in enumerate(_passages(text)):
        begins = text.index(sentences[0], at)
        line += text.count("\n", at, begins)
        first, at = line, begins
        for sentence in sentences:
            begins = text.index(sentence, at)
            line += text.count("\n", at, begins)
            at = begins + len(sentence)
        parts.append(TextPassage(number, " ".join(sentences), first, line))
    return parts, Bm25([_words(part.text) for part in parts])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _passages(text: str) -> Iterator[list[str]]:
    """The sentences of each paragraph; of a long one in pieces that end with a sentence, a line, or at least a word."""
    for paragraph in _PARAGRAPH.split(text):
        piece = list[str]()
        for sentence in (part.strip() for line in _BREAK.split(paragraph.strip()) for part in _PIECE.findall(line)):
            if piece and len(" ".join(piece)) + len(sentence) > _LONGEST:
                yield piece
                piece = []
            piece += [sentence] if sentence else []
        if piece:
            yield piece
