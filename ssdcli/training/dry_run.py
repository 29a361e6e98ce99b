"""What a training would read, without training: documents, tokens, what is left out and why, and samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.marking import Marker
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings, split_documents
from ssdcli.evaluation.heldout_text import Reservoir
from ssdcli.machine.units import counted
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Registry
from ssdcli.text.openings import chat_of, ends_of
from ssdcli.text.tokenizer import load_tokenizer
from ssdcli.training.settings import TrainSettings

SAMPLES = 10

_SHOWN = 400  # characters of a sample
_BATCH = 256  # documents that are encoded at once


@dataclass(frozen=True)
class DryRun:
    """What was found.

    report: of the reading.
    core: whose tokens are counted; None for a core from scratch, which has none yet.
    tokens: of all documents, by side of the split: `train` and `heldout`; None without a tokenizer.
    documents: by side of the split.
    samples: documents drawn at random.
    """

    report: ReadReport
    core: str | None
    tokens: dict[str, int] | None
    documents: dict[str, int]
    samples: tuple[Document, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        shown = [
            {
                "source": one.source,
                "text": _beginning(one.text),
                "conversation": bool(one.turns),
                "turns": [
                    {"role": turn.role, "content": _beginning(turn.content), "learned": turn.written}
                    for turn in one.turns
                ],
            }
            for one in self.samples
        ]
        counts = {"core": self.core, "documents": self.documents, "tokens": self.tokens}
        return counts | {"read": self.report.counts(), "report": self.report.lines(), "samples": shown}

    def lines(self) -> Iterator[str]:
        """The same as sentences and samples."""
        yield from self.report.lines()
        train, heldout = (counted(self.documents[side], "document") for side in ("train", "heldout"))
        if self.tokens is None:
            yield f"training would see {train}, and {heldout} would be held out"
        else:
            yield (
                f"training would see {train} ({self.tokens['train']:,} tokens of {self.core}), and {heldout} "
                f"({self.tokens['heldout']:,} tokens) would be held out"
            )
        for number, sample in enumerate(self.samples, 1):
            kind = " (conversation)" if sample.turns else ""
            yield f"--- sample {number} of {len(self.samples)}: {sample.source}{kind}"
            for turn in sample.turns:
                unlearned = ", not learned" if turn.role == "assistant" and not turn.learned else ""
                yield f"[{turn.role}{unlearned}] {_beginning(turn.content)}"
            if not sample.turns:
                yield _beginning(sample.text)


def dry_run(settings: TrainSettings, registry: Registry) -> DryRun:
    """Read the data of a training as it would be read; UsageError if a source does not exist."""
    core = None if settings.core == NO_CORE else registry.find(settings.core or registry.default())
    marker = None
    if core is not None:
        tokenizer = load_tokenizer(core.folder, core.name)
        ends = ends_of(core, tokenizer)
        marker = Marker(tokenizer, ends[0], chat_of(core), ends)
    report, samples = ReadReport(), Reservoir[Document](SAMPLES, Random(settings.seed))
    documents, tokens = {"train": 0, "heldout": 0}, {"train": 0, "heldout": 0}
    batch: list[tuple[Document, str]] = []

    def count() -> None:
        if marker is not None:
            marks = marker.mark([document for document, _ in batch])
            for (_, side), marked in zip(batch, marks, strict=True):
                tokens[side] += len(marked.ids)
        batch.clear()

    read = read_documents(settings.data, report, settings.reading)
    for document, is_heldout in split_documents(read, SplitSettings(settings.seed, settings.heldout), report):
        side = "heldout" if is_heldout else "train"
        documents[side] += 1
        samples.offer(document)
        batch.append((document, side))
        if len(batch) == _BATCH:
            count()
    count()
    name = None if core is None else core.name
    return DryRun(report, name, tokens if marker else None, documents, tuple(samples.shuffled()))


def _beginning(text: str) -> str:
    """The first characters of a text."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
