"""Text that the benchmarks train and measure on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.demo import story as demo
from ssdcli.registry.store import STARTER

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Corpus:
    """Text to train on and held-out text to measure on.

    facts: what the notebook's readers are asked; other corpora have none.
    changes: settings that every training on this corpus takes.
    """

    name: str
    train: str
    heldout: str
    facts: tuple[demo.Fact, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def notebook(cls) -> Corpus:
        """The bundled notebook, trained on as in the demo."""
        book = demo.read_notebook()
        settings = demo.settings_for(book, demo.MINUTES, STARTER)
        changes = {"batch_tokens": settings.batch_tokens, "passes": settings.passes}
        return cls("notebook", str(book.notes), str(book.heldout), book.facts, changes)

    @classmethod
    def of(cls, train: str, heldout: str) -> Corpus:
        """Two files; the first one's name, up to its first dot, names the corpus."""
        return cls(Path(train).name.partition(".")[0], train, heldout)


def corpora_of(given: Namespace) -> list[Corpus]:
    """The bundled notebook and the corpora given with `--corpus`."""
    return [Corpus.notebook(), *(Corpus.of(*pair) for pair in given.corpus)]


def own_text() -> tuple[str, ...]:
    """The project's own documents: technical English for quick runs, where no general text is given."""
    return tuple(str(path) for path in sorted(_ROOT.glob("*.md")))


def read_texts(path: str | Path, limit: int | None = None) -> list[str]:
    """The texts of a file or folder, at most the first `limit`."""
    return [document.text for document in read_documents((str(path),), ReadReport())][:limit]


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of each text that has any; special tokens in the text are encoded as ordinary characters."""
    tokenizer.encode_special_tokens = True
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) if encoding.ids]
