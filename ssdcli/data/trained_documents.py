"""What a model keeps to recognise the documents that it was trained on: salted digests, never the text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

from ssdcli.data.split import PASSAGE_CHARACTERS
from ssdcli.data.streams import cut_text
from ssdcli.errors import SsdError
from ssdcli.registry.archive import TRAINED_DOCUMENTS as FILE
from ssdcli.registry.disk import write_atomic

_DIGEST_BYTES = 8  # among a million documents, one of another million is mistaken once in 18 million times
_SALT_BYTES = 16
_SHORTEST = 32  # words of a beginning that is recognised: fewer could begin many texts
_WORD = re.compile(r"\S+")

Span = tuple[int, int]


@dataclass(frozen=True)
class TrainedDocuments:
    """Digests of the documents on the training side of a split, by their words alone: white space does not count.

    The salt is each model's own: the files of two models cannot be compared, and no table made for one helps with
    another. Whoever has the file can still test a guess of a whole document, so it is private and never exported.

    salt: the key of the digests.
    digests: one for each document or, of a text longer than PASSAGE_CHARACTERS, for each part that was trained on.
    """

    salt: bytes = field(default_factory=lambda: secrets.token_bytes(_SALT_BYTES))
    digests: set[bytes] = field(default_factory=set)

    @classmethod
    def read(cls, folder: Path) -> TrainedDocuments | None:
        """Read what a model's folder holds; None where it holds nothing, SsdError where that cannot be read."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            salt, *digests = (bytes.fromhex(line) for line in path.read_text(encoding="ascii").split())
        except (OSError, ValueError) as error:
            problem = f"the digests of training documents in {path} cannot be read ({error})."
            raise SsdError(problem, "Train the model again, or pass --include-trained.") from error
        return cls(salt, set(digests))

    def write(self, folder: Path) -> None:
        """Write the file, which only its owner can read; sorted, so that it does not tell the documents' order."""
        lines = [self.salt.hex(), *sorted(digest.hex() for digest in self.digests)]
        write_atomic(folder / FILE, "\n".join(lines) + "\n")

    def add(self, text: str) -> None:
        """Note a document, or a part of one, as trained on."""
        beginnings = list(self._beginnings(_WORD.finditer(text)))
        self.digests.update(beginnings[-1:])

    def spans(self, text: str) -> list[Span]:
        """Find the parts of a document that were trained on, as (start, stop) in characters.

        Each part of a long document is recognised as a whole, or by the longest beginning that was a document of its
        own: text that was appended since is new, and so is the end of a document whose end was held out.
        """
        parts = list(cut_text([text], PASSAGE_CHARACTERS))
        starts = accumulate(map(len, parts), initial=0)
        found = [(start, start + self._known(part)) for start, part in zip(starts, parts, strict=False)]
        return [(start, stop) for start, stop in found if stop > start]

    def _known(self, text: str) -> int:
        """How many of a text's first characters were trained on."""
        words = list(_WORD.finditer(text))
        known = [count for count, digest in enumerate(self._beginnings(words), 1) if digest in self.digests]
        if not known:
            return 0
        if known[-1] == len(words):
            return len(text)
        return words[known[-1] - 1].end() if known[-1] >= _SHORTEST else 0

    def _beginnings(self, words: Iterable[re.Match[str]]) -> Iterator[bytes]:
        """Digests of the first word, the first two, and so on to the whole."""
        state = blake2b(key=self.salt, digest_size=_DIGEST_BYTES)
        for word in words:
            state.update(f"{word.group()} ".encode("utf-8", "surrogatepass"))
            yield state.copy().digest()
