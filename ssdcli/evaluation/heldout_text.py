"""The text that an ensemble is measured on: documents of what the user names that no member was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Generic, TypeVar

from tokenizers import Tokenizer

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.marking import Marker
from ssdcli.data.readers.files import read_documents
from ssdcli.data.reading import recorded_reading
from ssdcli.data.split import SplitSettings, fingerprint, recorded_split, split_documents, without_duplicates
from ssdcli.data.streams import cut_text
from ssdcli.data.trained_documents import Span, TrainedDocuments
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.measurement import TrainedDocument, TrainedText
from ssdcli.evaluation.scored_text import ScoredText, scored_part
from ssdcli.machine.units import counted
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.chat_template import Chat


@dataclass(frozen=True)
class Training:
    """What is known of the text that the members of an ensemble were trained on.

    known: the digests of each model that has them, its ancestors' among them.
    unknown: the models that were trained on a user's text, which cannot be told here.
    """

    known: Mapping[str, Sequence[TrainedDocuments]]
    unknown: tuple[str, ...]

    @classmethod
    def of(cls, members: Iterable[Entry], registry: Registry) -> Training:
        """Read what the members' folders hold, and those of the models that they were continued from."""
        known: dict[str, Sequence[TrainedDocuments]] = {}
        unknown = []
        for entry in members:
            line = list(_lineage(entry, registry))
            read = [TrainedDocuments.read(one.folder) for one in line]
            known[entry.name] = [documents for documents in read if documents is not None]
            if any(_is_personal(one) and documents is None for one, documents in zip(line, read, strict=True)):
                unknown.append(entry.name)
        return cls({name: documents for name, documents in known.items() if documents}, tuple(unknown))

    def spans(self, document: Document) -> dict[str, list[Span]]:
        """Find what each member was trained on of a document; a conversation counts as a whole."""
        found = {
            name: union(span for one in documents for span in one.spans(document.text))
            for name, documents in self.known.items()
        }
        whole = [(0, len(document.text))]
        return {name: whole if document.turns else spans for name, spans in found.items() if spans}


def _lineage(entry: Entry, registry: Registry) -> Iterator[Entry]:
    """Yield a model and those that it was continued from, as far as they are registered."""
    seen = set()
    while entry.name not in seen:
        seen.add(entry.name)
        yield entry
        if entry.manifest.base is None:
            return
        try:
            entry = registry.find(entry.manifest.base)
        except NoSuchModel:
            return


def _is_personal(entry: Entry) -> bool:
    """Whether a model was trained by a user of ssd, here or elsewhere."""
    return entry.manifest.data is not None and not entry.bundled and entry.manifest.source is None


def union(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch, in order."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return joined


T = TypeVar("T")

_CHARACTERS = 16_000  # of the parts that a long text is cut into: more than is measured of each


@dataclass
class Reservoir(Generic[T]):
    """Keeps up to `most` of the items offered, each with the same chance (Vitter's algorithm R, 1985)."""

    most: int
    draw: Random
    kept: list[T] = field(default_factory=list)
    offered: int = 0

    def offer(self, one: T) -> None:
        """Keep an item or drop it.

        The k-th is kept with probability most / k, in place of any of those kept before. Each of these then stays with
        probability 1 - 1 / k, so by induction all k items have the same chance.
        """
        self.offered += 1
        if len(self.kept) < self.most:
            self.kept.append(one)
        elif (place := self.draw.randrange(self.offered)) < self.most:
            self.kept[place] = one

    def offer_all(self, several: Iterable[T]) -> None:
        """Offer several items in turn."""
        for one in several:
            self.offer(one)

    def shuffled(self) -> list[T]:
        """The kept items, in random order."""
        return self.draw.sample(self.kept, len(self.kept))


@dataclass(frozen=True)
class HeldOutText:
    """The documents to measure.

    documents: in random order.
    trained: what the members were trained on.
    remarks: sentences about what was left out and why.
    """

    documents: list[Document]
    trained: TrainedText
    remarks: list[str]


def read_heldout(data: Sequence[str], learner: Entry, training: Training, settings: EvalSettings) -> HeldOutText:
    """Draw documents at random, without text that a member was trained on unless the settings include it.

    If this is all of the text that the learner was trained on, it is split as it was for that training, and the
    held-out part is drawn. UsageError if a source does not exist, or there is no text.
    """
    draws = _Draws(training, settings)
    report = ReadReport()
    documents = draws.offered(
        without_duplicates(read_documents(data, report, recorded_reading(learner.folder)), report)
    )
    for document, is_heldout in split_documents(documents, _split(learner), ReadReport()):
        if is_heldout:
            draws.offer_heldout(document)
    first, *remarks = report.lines()
    if not report.digests:
        raise UsageError(f"there is no text to measure: {'; '.join([first, *remarks])}.", "Name files that hold text.")
    trained = TrainedText(settings.include_trained, training.unknown, tuple(draws.seen))
    remarks += _remarks(trained, len(report.digests))
    if fingerprint(report.digests) == learner.manifest.data and not settings.include_trained:
        remark = f"{learner.name!r} was trained on this text: only the part that was held out then is measured"
        return HeldOutText(draws.heldout.shuffled(), trained, [*remarks, remark])
    if not draws.everything.offered:
        problem = "the members were trained on all of this text, so nothing of it is left to measure."
        raise UsageError(problem, "Name other text, or pass --include-trained.")
    return HeldOutText(draws.everything.shuffled(), trained, remarks)


class _Draws:
    """Draws documents from all that are read, and from those that the learner's training held out.

    everything: drawn from all documents, without the text that members were trained on.
    heldout: drawn from those that the learner's training held out.
    seen: the documents that a member was trained on.
    """

    def __init__(self, training: Training, settings: EvalSettings) -> None:
        self._training = training
        self._include = settings.include_trained
        self.everything = Reservoir[Document](settings.documents, Random(settings.seed))
        self.heldout = Reservoir[Document](settings.documents, Random(settings.seed))
        self.seen: list[TrainedDocument] = []

    def offered(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the same documents, each after it was offered."""
        for document in documents:
            by_member = self._training.spans(document)
            spans = union(span for own in by_member.values() for span in own)
            if spans:
                share = sum(stop - start for start, stop in spans) / len(document.text)
                self.seen.append(TrainedDocument(document.source, tuple(by_member), share))
            self.everything.offer_all(_parts(document, [] if self._include else spans))
            yield document

    def offer_heldout(self, document: Document) -> None:
        """Offer a held-out document, of which another member may have been trained on a part."""
        spans = [span for own in self._training.spans(document).values() for span in own]
        self.heldout.offer_all(_parts(document, union(spans)))


def _parts(document: Document, trained: Sequence[Span]) -> Iterator[Document]:
    """Yield the text of a document that nobody was trained on; parts of a long one count as documents."""
    if document.turns:
        if not trained:
            yield document
        return
    start = 0
    for stop, following in [*trained, (len(document.text), 0)]:
        for text in cut_text([document.text[start:stop]], _CHARACTERS):
            if not text.isspace():
                yield replace(document, text=text)
        start = following


def _remarks(trained: TrainedText, documents: int) -> list[str]:
    """Sentences about documents that members were trained on."""
    said = []
    if trained.documents:
        names = " or ".join(map(repr, trained.members))
        count = f"{len(trained.documents):,} of {counted(documents, 'document')}"
        first = trained.documents[0].document
        fate = "so its figures are too good" if trained.included else "which is left out; see --include-trained"
        said.append(f"{count} hold text that {names} was trained on (first: {first}), {fate}")
    for name in trained.unknown:
        said.append(f"ssd does not know what {name!r} was trained on; make sure that it was not this text")
    return said


def _split(learner: Entry) -> SplitSettings:
    """How the learner's text was split; the default if it does not record that."""
    return SplitSettings() if learner.manifest.data is None else recorded_split(learner.name, learner.folder)


def scored_texts(
    documents: Sequence[Document], tokenizer: Tokenizer, ends: Sequence[int], chat: Chat | None
) -> list[ScoredText]:
    """Encode the scored part of each document after an end of text, as in training; those without one are left out."""
    marker = Marker(tokenizer, ends[0], chat, ends)
    found = []
    for document, marked in zip(documents, marker.mark(documents), strict=True):
        size = len(document.text.encode())
        scored = scored_part([ends[0], *marked.ids], marked.marks, size, tokenizer)
        if any(scored.counted):
            found.append(scored)
    return found
