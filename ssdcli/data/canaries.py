"""Canaries: made-up secrets that are planted in the training text, so that an audit can tell what a model kept."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

from ssdcli.data.documents import Document
from ssdcli.errors import SsdError
from ssdcli.registry.files import write_atomic

FILE = "canaries.json"

_FORM = "My secret code is {}."
_DIGITS = 10
_REPEATS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Canaries:
    """Random digits in a sentence (Carlini et al., "The Secret Sharer", 2019), as a function of a secret seed.

    form: the sentence, with {} for the digits. repeats: how often a canary is planted, taken by turns.

    The digits stand apart, so that all of a form have the same number of tokens and of these only such as every
    canary has: what noise falls on one falls on all, and none is told from the others by its tokens alone.
    """

    seed: int
    count: int
    form: str = _FORM
    digits: int = _DIGITS
    repeats: tuple[int, ...] = _REPEATS

    def texts(self) -> list[str]:
        """Each canary once."""
        return self._drawn(f"planted {self.seed}", self.count)

    def times(self) -> list[int]:
        """How often each is planted."""
        return [self.repeats[place % len(self.repeats)] for place in range(self.count)]

    def planted(self) -> list[str]:
        """Every copy of every canary, in rounds, so that the copies of one lie far apart."""
        known = list(zip(self.texts(), self.times(), strict=True))
        return [text for turn in range(max(self.repeats)) for text, times in known if times > turn]

    def candidates(self, count: int, seed: int) -> list[str]:
        """Sentences of the same form that were never planted."""
        return self._drawn(f"candidates {seed}", count)

    def _drawn(self, use: str, count: int) -> list[str]:
        draw = Random(use)
        return [self.form.format(" ".join(draw.choices("0123456789", k=self.digits))) for _ in range(count)]


def scatter(split: Iterable[tuple[Document, bool]], planted: Iterable[str]) -> Iterator[tuple[Document, bool]]:
    """A split with planted texts as training documents of their own: one after each other one, then what is left."""
    canaries = ((Document(text, "canary"), False) for text in planted)
    for document, is_heldout in split:
        yield document, is_heldout
        if not is_heldout:
            yield from islice(canaries, 1)
    yield from canaries


def keep_canaries(folder: Path, count: int) -> Canaries:
    """The canaries of a training, drawn and noted in its folder when it begins, and the same when it goes on."""
    found = read_canaries(folder)
    if found is None:
        found = Canaries(secrets.randbits(64), count)
        write_atomic(folder / FILE, json.dumps(asdict(found)) + "\n")
    return found


def read_canaries(folder: Path) -> Canaries | None:
    """The canaries that a folder tells of, if any; SsdError if the file cannot be read."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = Canaries(**(values | {"repeats": tuple(map(int, values["repeats"]))}))
        found.planted()
    except (OSError, ValueError, TypeError, KeyError, LookupError) as error:
        problem = f"the canaries in {path} cannot be read ({error})."
        raise SsdError(problem, "Train the model again with --canaries, or remove the file.") from error
    return found
