"""Canaries: made-up secrets planted in the training text, by which an audit measures what a model memorised."""

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
from ssdcli.registry.disk import write_atomic

FILE = "canaries.json"
PLANTED = "<canary>"  # in place of a document's source; no file is called so in a report

_FORM = "My secret code is {}."
_DIGITS = 10
_REPEATS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Canaries:
    """Random digits in a sentence (Carlini et al., "The Secret Sharer", 2019), as a function of a secret seed.

    Spaces separate the digits, so that every canary has as many tokens, out of the same small set: the same noise hits
    all of them, and none stands out by its tokens alone.

    seed: what they are drawn from.
    count: how many there are.
    form: the sentence, with {} for the digits.
    digits: how many there are in one.
    repeats: how often canaries are planted, in rotation.
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
    """Add planted texts to a split as training documents: one after each other training document, then the rest."""
    canaries = ((Document(text, PLANTED), False) for text in planted)
    for document, is_heldout in split:
        yield document, is_heldout
        if not is_heldout:
            yield from islice(canaries, 1)
    yield from canaries


def keep_canaries(folder: Path, count: int) -> Canaries:
    """The canaries of a training: drawn and stored when it begins, the same ones when it is resumed."""
    found = read_canaries(folder)
    if found is None:
        found = Canaries(secrets.randbits(64), count)
        write_atomic(folder / FILE, json.dumps(asdict(found)) + "\n")
    return found


def read_canaries(folder: Path) -> Canaries | None:
    """Read the canaries that a folder lists, if it does; SsdError if the file cannot be read."""
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
