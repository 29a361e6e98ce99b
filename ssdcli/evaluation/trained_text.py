"""What the members of an ensemble were trained on, as far as the digests in their folders tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ssdcli.data.documents import Document
from ssdcli.data.trained_documents import Span, TrainedDocuments
from ssdcli.errors import NoSuchModel
from ssdcli.registry.store import Entry, Registry


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
