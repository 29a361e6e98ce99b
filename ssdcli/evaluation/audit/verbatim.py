"""Verbatim copies: which spans of some texts occur in a corpus, which is read once and may be of any size.

All spans are hashed into a table of bits, and so is every position of the corpus, 2^18 characters at a time in numpy.
Only positions whose bit is set are compared with the spans themselves, so the result is exact, memory grows with the
spans alone, and Python code touches a small part of the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SPAN = 50  # characters

_BASE = 0x9E3779B97F4A7C15  # of the polynomial: odd, so that multiplying by it modulo 2^64 loses nothing
_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # mixes all bits into the high ones, which the table uses
_FILTER_BITS = 22
_TOGETHER = 1 << 18  # characters that are searched at once
_APART = "\ud800"  # separates texts: a lone surrogate, which no valid text contains

Hashes = npt.NDArray[np.uint64]


def spans_of(text: str) -> list[str]:
    """Every span of SPAN characters in a text; a shorter text has none."""
    return [text[start : start + SPAN] for start in range(len(text) - SPAN + 1)]


class Search:
    """Finds which spans occur in a corpus that is read text by text (Karp and Rabin, 1987)."""

    def __init__(self, spans: Iterable[str]) -> None:
        """Take the spans to search for, of SPAN characters each."""
        self._wanted = set(spans)
        self._found: set[str] = set()
        self._held: list[str] = []
        self._size = 0
        self._passes = np.zeros(1 << _FILTER_BITS, dtype=bool)
        if self._wanted:
            codes = _codes("".join(self._wanted)).reshape(-1, SPAN)
            self._passes[_places(_hashes(codes))] = True

    def read(self, text: str) -> None:
        """Search one more text of the corpus; short texts are collected and searched together."""
        self._held.append(text)
        self._size += len(text)
        if self._size >= _TOGETHER:
            self._look_through()

    def found(self) -> set[str]:
        """The spans that occur in what was read."""
        self._look_through()
        return self._found

    def _look_through(self) -> None:
        text = _APART.join(self._held)
        self._held, self._size = [], 0
        if len(text) < SPAN:
            return
        hashes = _hashes(_codes(text))
        passed = np.flatnonzero(self._passes[_places(hashes)])
        _, first = np.unique(hashes[passed], return_index=True)
        for start in passed[first].tolist():
            span = text[start : start + SPAN]
            if span in self._wanted:
                self._found.add(span)


@dataclass(frozen=True)
class Found:
    """The spans that occur in a corpus.

    in_training: on its training side.
    in_heldout: on its held-out side.
    """

    in_training: set[str]
    in_heldout: set[str]


def find(texts: Iterable[str], documents: Iterable[tuple[str, bool]]) -> Found:
    """Search documents for the spans of some texts.

    documents: each one's text, and whether it was held out.
    """
    spans = [span for text in texts for span in spans_of(text)]
    training, heldout = Search(spans), Search(spans)
    for document, is_heldout in documents:
        (heldout if is_heldout else training).read(document)
    return Found(training.found(), heldout.found())


def share(texts: Sequence[str], spans: set[str]) -> float | None:
    """The share of all spans of some texts that are among the given ones; None if no text has a span."""
    own = [span for text in texts for span in spans_of(text)]
    return sum(span in spans for span in own) / len(own) if own else None


def _codes(text: str) -> Hashes:
    """The code points of a text: (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _hashes(codes: Hashes) -> Hashes:
    """Hash every run of SPAN codes by a polynomial modulo 2^64: (..., n) to (..., n - SPAN + 1).

    A hash of 2 k codes is made from two hashes of k codes, and SPAN's binary digits say which of these to chain, which
    takes about 2 log2(SPAN) passes over the text instead of SPAN.
    """
    part, length = codes, 1  # hashes of 1, 2, 4, ... codes
    whole, size = np.zeros(1, dtype=np.uint64), 0
    while length <= SPAN:
        if SPAN & length:
            whole, size = _chained(whole, part[..., size:], length), size + length
        part, length = _chained(part[..., :-length], part[..., length:], length), 2 * length
    return whole * _SPREAD


def _chained(before: Hashes, after: Hashes, length: int) -> Hashes:
    """Chain hashes with those of the `length` codes that follow: h(a b) = h(a) BASE^length + h(b)."""
    power = np.uint64(pow(_BASE, length, 1 << 64))
    return before[..., : after.shape[-1]] * power + after


def _places(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
