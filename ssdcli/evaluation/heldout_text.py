"""The text that an ensemble is measured on: some documents of what the user names, none that a member has learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from tokenizers import Tokenizer

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.marking import Marker
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings, distinct, fingerprint, split_documents
from ssdcli.data.streams import cut_text
from ssdcli.errors import UsageError
from ssdcli.evaluation.audit.training_text import Reservoir, split_of
from ssdcli.evaluation.losses import Passage
from ssdcli.evaluation.passages import marked_passage
from ssdcli.registry.store import Entry
from ssdcli.text.chat import Chat

_CHARACTERS = 16_000  # of a part of a long text: more than is measured of it


@dataclass(frozen=True)
class HeldOutText:
    """Documents in random order, and sentences about what was left out and why."""

    documents: list[Document]
    remarks: list[str]


def read_heldout(data: Sequence[str], learner: Entry, most: int, seed: int) -> HeldOutText:
    """Draw up to `most` documents; of the very text that the learner was trained on, those that it held out.

    UsageError where a source does not exist, or there is no text.
    """
    own = learner.manifest.data
    everything, heldout = Reservoir[Document](most, Random(seed)), Reservoir[Document](most, Random(seed))
    report = ReadReport()
    documents = _offered(everything, distinct(read_documents(data, report), report))
    for document, is_heldout in split_documents(documents, _split(learner), ReadReport()):
        if is_heldout:
            heldout.offer_all(_parts(document))
    first, *remarks = report.lines()
    if not everything.offered:
        raise UsageError(f"there is no text to measure: {'; '.join([first, *remarks])}.", "Name files that hold text.")
    if own is not None and fingerprint(report.digests) == own:
        told = f"{learner.name!r} was trained on this text: only what it held out of it is measured"
        return HeldOutText(heldout.shuffled(), [*remarks, told])
    return HeldOutText(everything.shuffled(), remarks)


def _offered(reservoir: Reservoir[Document], documents: Iterable[Document]) -> Iterator[Document]:
    """The same documents, each offered on its way."""
    for document in documents:
        reservoir.offer_all(_parts(document))
        yield document


def _parts(document: Document) -> Iterator[Document]:
    """A document, or the parts of a long one, which count as documents."""
    if document.turns:
        yield document
        return
    for text in cut_text([document.text], _CHARACTERS):
        if not text.isspace():
            yield replace(document, text=text)


def _split(learner: Entry) -> SplitSettings:
    """How the learner's text was split, if it was trained here."""
    return SplitSettings() if learner.manifest.data is None else split_of(learner)


def passages_of(
    documents: Sequence[Document], tokenizer: Tokenizer, ends: Sequence[int], chat: Chat | None
) -> list[Passage]:
    """What is measured of each document, as models are trained on it; those of which nothing is are left out."""
    marker = Marker(tokenizer, ends[0], chat, ends)
    found = []
    for document, marked in zip(documents, marker.mark(documents), strict=True):
        size = len(document.text.encode())
        passage = marked_passage([ends[0], *marked.ids], marked.marks, size, tokenizer)
        if any(passage.counted):
            found.append(passage)
    return found
