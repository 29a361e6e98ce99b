"""The text that a model was trained on, which its owner names again: a model keeps none of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.reading import Reading, recorded_reading
from ssdcli.data.split import SplitSettings, fingerprint, recorded_split, split_documents
from ssdcli.errors import SsdError, UsageError
from ssdcli.evaluation.heldout_text import Reservoir
from ssdcli.options.declare import STREAM
from ssdcli.registry.store import Entry

_CHARACTERS = 4_000  # of a document that an excerpt keeps
_HELDOUT = 128  # documents
_TRAIN = 1024  # documents, of which some are as long as the held-out ones


@dataclass(frozen=True)
class TrainingText:
    """The data of a training.

    model: its name.
    data: files and folders.
    split: how the training split it.
    reading: how the training read it.
    fingerprint: of all documents.
    """

    model: str
    data: tuple[str, ...]
    split: SplitSettings
    reading: Reading
    fingerprint: str

    def documents(self) -> Iterator[tuple[str, bool]]:
        """Read the texts, each with whether it was held out.

        Raises UsageError at the end if they were not those that the model was trained on.
        """
        report = ReadReport()
        for document, is_heldout in split_documents(
            read_documents(self.data, report, self.reading), self.split, report
        ):
            yield document.text, is_heldout
        if fingerprint(report.digests) != self.fingerprint:
            raise UsageError(
                f"this is not the text that {self.model!r} was trained on: {report.lines()[0]}, whose fingerprint "
                "differs from that in its manifest.",
                "Name all of the same files, unchanged.",
            )


@dataclass(frozen=True)
class Excerpts:
    """Beginnings of randomly drawn documents.

    train: of documents that were trained on.
    heldout: of documents that were held out.
    documents: how many each side has.
    """

    train: list[str]
    heldout: list[str]
    documents: tuple[int, int]


def read_excerpts(text: TrainingText, draw: Random) -> Excerpts:
    """Read a training text once; UsageError if it is not that of the model."""
    train, heldout = Reservoir[str](_TRAIN, draw), Reservoir[str](_HELDOUT, draw)
    for document, is_heldout in text.documents():
        (heldout if is_heldout else train).offer(document[:_CHARACTERS])
    return Excerpts(train.shuffled(), heldout.shuffled(), (train.offered, heldout.offered))


def find_training_text(entry: Entry, data: Sequence[str]) -> TrainingText:
    """Prepare to read a model's training text; nothing is read yet but the model's recipe.

    UsageError for data that cannot be it, SsdError for a model that does not record its training.
    """
    if STREAM in data:
        raise UsageError("audited text is read twice, which standard input cannot be.", "Give it as files.")
    if entry.manifest.data is None:
        raise SsdError(f"the manifest of {entry.name!r} does not tell what it was trained on.", "Train it again.")
    read_documents(data, ReadReport())  # refuses what does not exist
    split, reading = recorded_split(entry.name, entry.folder), recorded_reading(entry.folder)
    return TrainingText(entry.name, tuple(data), split, reading, entry.manifest.data)
