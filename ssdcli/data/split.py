"""The split of documents into a training and a held-out side, the same for the same texts in any order."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.streams import cut_text
from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.recipes import RECIPE, read_recipe

_FEWEST_WORDS = 50  # of documents that are compared; of shorter ones only the same words in the same order count
_RUN = 5  # words
_BANDS, _ROWS = 3, 10  # of two documents that share 95% of their runs 94% are found, of those that share 70% 8%
_SEED = 20

Words = NDArray[np.uint64]


class NearDuplicates:
    """Remembers documents by a few hashes each, and recognises one that shares most of its runs of words with another.

    The method is locality-sensitive hashing (Broder, 1997; Indyk and Motwani, 1998): the smallest hash of a document's
    runs is that of another's with the probability of their Jaccard similarity, and all hashes of a band must be.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(_SEED)
        self._factors = draw.integers(1, 1 << 63, (_BANDS * _ROWS, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._powers = draw.integers(1, 1 << 63, _RUN, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._seen: set[int] = set()

    def resembles_another(self, words: Sequence[str]) -> bool:
        """Whether a document is nearly the same as one before it; it is remembered if it is not."""
        if len(words) < _FEWEST_WORDS:
            return False
        keys = self._keys(words)
        if not self._seen.isdisjoint(keys):
            return True
        self._seen.update(keys)
        return False

    def _keys(self, words: Sequence[str]) -> list[int]:
        """One number for each band of hashes."""
        hashes = np.fromiter((zlib.crc32(word.encode("utf-8")) for word in words), np.uint64, len(words))
        runs = self._runs(hashes)
        smallest = np.concatenate(
            [self._smallest(runs[start : start + 4096]) for start in range(0, len(runs), 4096)], 1
        )
        bands = smallest.min(1).reshape(_BANDS, _ROWS)
        return [hash((band, *map(int, row))) for band, row in enumerate(bands)]

    def _runs(self, hashes: Words) -> Words:
        """The hashes of all runs of words: (n,) to (n - _RUN + 1,)."""
        last = len(hashes) - _RUN + 1
        return sum((hashes[k : last + k] * power for k, power in enumerate(self._powers)), np.zeros(last, np.uint64))

    def _smallest(self, runs: Words) -> Words:
        """The smallest of some runs' hashes under each of the hash functions: (n,) to (functions, 1)."""
        mixed = runs ^ (runs >> np.uint64(29))
        products = mixed[None, :] * self._factors
        found: Words = (products ^ (products >> np.uint64(32))).min(1, keepdims=True)
        return found


FEW_PASSAGES = 20
PASSAGE_CHARACTERS = 100_000

_DIGEST_BYTES = 16
_SMALL_HELDOUT_CHARACTERS = 1_000
_SMALL_HELDOUT_FRACTION = 0.2


@dataclass(frozen=True)
class SplitSettings:
    """How documents are split.

    seed: decides which are held out.
    heldout_fraction: how many are, between 0 and 1.
    """

    seed: int = 0
    heldout_fraction: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.heldout_fraction < 1:
            problem = f"the held-out fraction must lie between 0 and 1, but is {self.heldout_fraction}."
            raise UsageError(problem, "Use a fraction such as 0.05.")


def recorded_split(name: str, folder: Path) -> SplitSettings:
    """Read how a trained model split its text from the recipe in its folder; SsdError if that does not tell."""
    try:
        written = read_recipe(folder / RECIPE)
        seed, heldout = written.get("seed"), written.get("heldout")
        if not isinstance(seed, int) or not isinstance(heldout, float):
            raise UsageError(f"its seed is {seed!r} and its heldout {heldout!r}.")
        return SplitSettings(seed, heldout)
    except UsageError as error:
        problem = f"how {name!r} split its text cannot be read: {error.problem}"
        raise SsdError(problem, "Train it again.") from error


@dataclass(frozen=True)
class _Passage:
    """A document, or a part of a long one; passages with the lowest keys are held out."""

    key: float
    document: Document


def split_documents(
    documents: Iterable[Document], settings: SplitSettings, report: ReadReport
) -> Iterator[tuple[Document, bool]]:
    """Yield distinct documents, each with whether it is held out.

    Duplicates are counted in `report`, which also collects words and digests. Texts longer than PASSAGE_CHARACTERS are
    yielded in parts, so that no single one can outweigh its side of the split. If there are fewer than FEW_PASSAGES
    parts, the end of the text is held out instead of whole parts. Conversations stay whole.
    """
    passages = _passages(without_duplicates(documents, report), settings.seed)
    first = list(islice(passages, FEW_PASSAGES))
    if len(first) < FEW_PASSAGES:
        yield from _split_few(first, settings.heldout_fraction)
    else:
        yield from _split_many(first, passages, settings.heldout_fraction)


def whole_documents(documents: Iterable[Document], report: ReadReport) -> Iterator[tuple[Document, bool]]:
    """Yield distinct documents as `split_documents` does, none of them held out."""
    return ((passage.document, False) for passage in _passages(without_duplicates(documents, report), 0))


def fingerprint(digests: Iterable[bytes]) -> str:
    """A name for a set of documents: SHA-256, in hex, over their sorted digests."""
    total = sha256()
    for digest in sorted(digests):
        total.update(digest)
    return total.hexdigest()


def without_duplicates(documents: Iterable[Document], report: ReadReport) -> Iterator[Document]:
    """Yield documents without their duplicates, which are counted in `report`, as are words and digests.

    Of documents that are nearly the same the first is kept, and those whose files were asked for.
    """
    near = NearDuplicates()
    for document in documents:
        words = document.text.split()
        digest = _digest(words)
        if digest in report.digests:
            report.skip("duplicate", document.source, "document")
            continue
        if near.resembles_another(words) and not document.included:
            report.skip("near-duplicate", document.source, "document")
            continue
        report.digests.add(digest)
        report.words += len(words)
        yield document


def _digest(words: list[str]) -> bytes:
    """A digest of the words, whatever white space separates them."""
    return blake2b(" ".join(words).encode("utf-8"), digest_size=_DIGEST_BYTES).digest()


def _passages(documents: Iterable[Document], seed: int) -> Iterator[_Passage]:
    for document in documents:
        whole, line = bool(document.turns), document.line
        for text in [document.text] if whole else cut_text([document.text], PASSAGE_CHARACTERS):
            if not text.isspace():
                yield _Passage(_key(text, seed), replace(document, text=text, line=line))
            line += text.count("\n")


def _key(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the words and the seed alone."""
    digest = blake2b(_digest(text.split()), key=str(seed).encode("ascii")[:64], digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _split_many(first: list[_Passage], others: Iterator[_Passage], fraction: float) -> Iterator[tuple[Document, bool]]:
    """Hold out each passage whose key lies below the fraction, and the one with the lowest key in any case.

    Which that is shows only at the end, so the lowest so far is kept back.
    """
    lowest = first[0]
    for passages in (first[1:], others):
        for passage in passages:
            settled, lowest = (lowest, passage) if passage.key < lowest.key else (passage, lowest)
            yield settled.document, settled.key < fraction
    yield lowest.document, True


def _split_few(passages: list[_Passage], fraction: float) -> Iterator[tuple[Document, bool]]:
    """Hold out the end of a small corpus, in the order of the keys: whole passages and the end of one more.

    At least _SMALL_HELDOUT_CHARACTERS are wanted, since a loss over a few words says nothing, but no more than
    _SMALL_HELDOUT_FRACTION of the whole. A conversation is held out whole or not at all.
    """
    total = sum(len(passage.document.text) for passage in passages)
    wanted = max(fraction * total, min(_SMALL_HELDOUT_FRACTION * total, _SMALL_HELDOUT_CHARACTERS))
    if all(passage.document.turns for passage in passages):
        wanted = max(wanted, min((len(passage.document.text) for passage in passages), default=0))
    missing = wanted
    for passage in sorted(passages, key=lambda passage: passage.key):
        document = passage.document
        if missing < wanted / 2:
            yield document, False
        elif len(document.text) <= missing:
            missing -= len(document.text)
            yield document, True
        elif document.turns:
            yield document, False
        else:
            cut = _place_to_cut(document.text, round(missing))
            missing = 0
            beginning, end = document.text[:cut], document.text[cut:]
            parts = ((beginning, document.line, False), (end, document.line + beginning.count("\n"), True))
            yield from ((replace(document, text=text, line=line), held) for text, line, held in parts if text.strip())


def _place_to_cut(text: str, tail: int) -> int:
    """Where to cut so that about `tail` characters follow: between paragraphs, lines or words, or anywhere."""
    latest = max(len(text) - tail, 0)
    earliest = max(len(text) - 4 * tail, 0)
    for separator in ("\n\n", "\n", " "):
        cut = text.rfind(separator, earliest, latest)
        if cut > 0:
            return cut + len(separator)
    return latest
