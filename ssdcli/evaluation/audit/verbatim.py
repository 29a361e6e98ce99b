"""Which stretches of some texts stand word for word in a corpus that is read once, however large it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SPAN = 50  # characters

_BASE = 0x9E3779B97F4A7C15
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_FILTER_BITS = 22
_TOGETHER = 1 << 18  # characters that are looked through at once
_APART = "\ud800"  # stands between texts, and in no text that can be written

Hashes = npt.NDArray[np.uint64]


def spans_of(text: str) -> list[str]:
    """Every stretch of SPAN characters of a text, none of a shorter one."""
    return [text[start : start + SPAN] for start in range(len(text) - SPAN + 1)]


class Search:
    """Finds exactly which of some spans stand in a corpus; memory grows with the spans alone.

    Spans and every place of the corpus are hashed (a polynomial, by doubling: Karp and Rabin, 1987), and what the
    hashes let through is compared letter by letter.
    """

    def __init__(self, spans: Iterable[str]) -> None:
        """Take the spans that are looked for, of SPAN characters each."""
        self._wanted = set(spans)
        self._found: set[str] = set()
        self._held: list[str] = []
        self._size = 0
        self._passes = np.zeros(1 << _FILTER_BITS, dtype=bool)
        if self._wanted:
            codes = _codes("".join(self._wanted)).reshape(-1, SPAN)
            self._passes[_places(_hashes(codes))] = True

    def read(self, text: str) -> None:
        """Look through one more text of the corpus; short ones wait for others."""
        self._held.append(text)
        self._size += len(text)
        if self._size >= _TOGETHER:
            self._look_through()

    def found(self) -> set[str]:
        """The spans that stand in what was read."""
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
    """The spans of some texts that stand in the two sides of a corpus."""

    in_training: set[str]
    in_heldout: set[str]


def find(texts: Iterable[str], documents: Iterable[tuple[str, bool]]) -> Found:
    """Look for the spans of some texts in documents, each with whether it was held out."""
    spans = [span for text in texts for span in spans_of(text)]
    training, heldout = Search(spans), Search(spans)
    for document, is_heldout in documents:
        (heldout if is_heldout else training).read(document)
    return Found(training.found(), heldout.found())


def share(texts: Sequence[str], spans: set[str]) -> float | None:
    """The share of all spans of some texts that are among the given ones; None where no text has a span."""
    own = [span for text in texts for span in spans_of(text)]
    return sum(span in spans for span in own) / len(own) if own else None


def _codes(text: str) -> Hashes:
    """The code points of a text: (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _hashes(codes: Hashes) -> Hashes:
    """A polynomial of every SPAN codes in sequence, modulo 2^64: (..., n) to (..., n - SPAN + 1)."""
    part, length = codes, 1  # of the stretches of 1, 2, 4, ... codes
    whole, size = np.zeros(1, dtype=np.uint64), 0
    while length <= SPAN:
        if SPAN & length:
            whole, size = _chained(whole, part[..., size:], length), size + length
        part, length = _chained(part[..., :-length], part[..., length:], length), 2 * length
    return whole * _SPREAD


def _chained(before: Hashes, after: Hashes, length: int) -> Hashes:
    """Hashes of stretches followed by others of so many codes, as far as there are both."""
    power = np.uint64(pow(_BASE, length, 1 << 64))
    return before[..., : after.shape[-1]] * power + after


def _places(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
