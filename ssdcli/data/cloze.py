"""Cloze targets: which words may come next at places of a text, by the answers of people or by another model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from ssdcli.data.row_forms import CLOZE, Row, Unfit, unpacked

_SHAPE = "a 'cloze' that is no list of objects with a place 'at' and 'words' with their shares"
_FILE = "train_cloze.jsonl"
_SHOWN = 200  # characters before a place that are kept to find it by, whatever becomes of the rest of the text


@dataclass(frozen=True)
class Cloze:
    """The words that may come next at a place.

    before: the text before it, as far as it is needed to find it.
    is_beginning: whether the text begins with that.
    words: with their shares, which sum to one.
    """

    before: str
    is_beginning: bool
    words: Mapping[str, float]

    def place(self, text: str) -> int | None:
        """Where it is in a text, in characters; None for one that does not hold it."""
        found = (0 if text.startswith(self.before) else -1) if self.is_beginning else text.find(self.before)
        return None if found < 0 else found + len(self.before)


def cloze_of(row: Row, text: str) -> tuple[Cloze, ...]:
    """The targets of a row with this text; Unfit if they are not what they must be."""
    given = unpacked(row.get(CLOZE) or [])
    if not isinstance(given, list):
        raise Unfit(_SHAPE)
    return tuple(_target(one, text) for one in given)


def _target(given: object, text: str) -> Cloze:
    at, words = (given.get("at"), given.get("words")) if isinstance(given, Mapping) else (None, None)
    if not isinstance(at, int) or isinstance(at, bool) or not isinstance(words, Mapping) or not 0 < at <= len(text):
        raise Unfit(_SHAPE)
    shares: dict[str, float] = {}
    for word, share in words.items():
        is_share = isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < float("inf")
        if not isinstance(word, str) or not word.strip() or not is_share:
            raise Unfit(_SHAPE)
        shares[word.strip()] = shares.get(word.strip(), 0.0) + share
    total = sum(shares.values())
    if not total or not text[:at].strip():
        raise Unfit(_SHAPE)
    before = text[:at].rstrip()
    kept = {word: share / total for word, share in shares.items() if share}
    return Cloze(before[-_SHOWN:], len(before) <= _SHOWN, kept)


@dataclass(frozen=True)
class Branch:
    """Words that may stand in place of what a document has.

    document: its number among those of its side.
    at: how many of its tokens are before the place.
    words: the tokens of each, with its share.
    """

    document: int
    at: int
    words: Sequence[tuple[Sequence[int], float]]


class Branches:
    """Collects the cloze targets of documents in tokens, where these end at the place."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._found: list[Branch] = []

    def add(self, number: int, text: str, ids: Sequence[int], targets: Sequence[Cloze]) -> None:
        """Add the targets of a document, of this number and with these tokens."""
        for target in targets:
            place = target.place(text)
            before = [] if place is None else self._encode(text[:place])
            if before and before == list(ids[: len(before)]):
                words = [(self._encode(f" {word}"), share) for word, share in target.words.items()]
                self._found.append(Branch(number, len(before), words))

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def write(self, folder: Path) -> None:
        """Write what was found into the folder of a token store."""
        lines = [json.dumps([one.document, one.at, one.words]) + "\n" for one in self._found]
        (folder / _FILE).unlink(missing_ok=True)
        if lines:
            (folder / _FILE).touch(mode=0o600)
            (folder / _FILE).write_text("".join(lines), encoding="utf-8")


def read_branches(folder: Path) -> Iterator[Branch]:
    """The cloze targets of the training side of a token store, in the order of its documents."""
    path = folder / _FILE
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        document, at, words = json.loads(line)
        yield Branch(document, at, [(ids, share) for ids, share in words])
