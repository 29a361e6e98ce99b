"""Texts that models write after the beginnings of documents, and their measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssdcli.data.documents import Document
from ssdcli.evaluation.generated import METRICS, Written, words
from ssdcli.evaluation.measurement import TextMeasures
from ssdcli.generation.types import Options, Request
from ssdcli.generation.writer import Writer
from ssdcli.text.codec import document

if TYPE_CHECKING:
    from ssdcli.models.judge import Judge, Reading

PEOPLE = "held-out text"

_TOKENS = 128  # that are written, at most
_CHARACTERS = 200  # of a document's beginning, at most; and no more than half of the document
_SHORTEST = 80  # characters of a document that is continued, at least


@dataclass(frozen=True)
class Opening:
    """The beginning of a document.

    request: asks a model to continue it.
    before: the text before what the model writes.
    after: how the document really continues.
    """

    request: Request
    before: str
    after: str


def openings(documents: Sequence[Document], most: int) -> list[Opening]:
    """Return the beginnings of the first documents that are long enough; of conversations all but the last answer."""
    fitting = (one for one in documents if one.turns or len(one.text) >= _SHORTEST)
    return [_opening(one) for one, _ in zip(fitting, range(most), strict=False)]


def _opening(one: Document) -> Opening:
    if one.turns:
        *asked, answer = one.turns
        return Opening(Request(messages=tuple(asked)), document(asked), answer.content)
    beginning = one.text[: min(_CHARACTERS, len(one.text) // 2)].rsplit(maxsplit=1)[0]
    return Opening(Request(beginning), beginning, one.text[len(beginning) :])


def write(
    writer: Writer, found: Sequence[Opening], context: str, seed: int, on_progress: Callable[[float], None]
) -> list[str]:
    """Let an ensemble continue each opening; its small models see the private context."""
    private = any(member.sees_context for member in writer.members)
    requests = [replace(opening.request, context=context if private else "") for opening in found]
    texts = []
    for result in writer.results(requests, Options(max_tokens=_TOKENS, seed=seed)):
        texts.append(result.text)
        on_progress(len(texts) / len(requests))
    return texts


def continued(writer: Writer, found: Sequence[Opening]) -> list[str]:
    """Return how the documents continue, cut to the length that models write."""
    codec = writer.codec
    return [codec.decode(codec.encode(opening.after)[:_TOKENS]) for opening in found]


def measure_texts(
    written: Mapping[str, Sequence[str]], found: Sequence[Opening], judge: Judge | None, seed: int
) -> tuple[TextMeasures, ...]:
    """Measure every author's texts, among them PEOPLE's, which the others' are compared with."""
    readings = {who: () if judge is None else tuple(_read(judge, texts, found)) for who, texts in written.items()}
    return tuple(
        _measures(who, Written([words(text) for text in texts], readings[who], _reference(readings, who), seed))
        for who, texts in written.items()
    )


def _measures(who: str, written: Written) -> TextMeasures:
    return TextMeasures(who, len(written.texts), {name: metric(written) for name, metric in METRICS.items()})


def _reference(readings: Mapping[str, Sequence[Reading]], who: str) -> Sequence[Reading]:
    return () if who == PEOPLE else readings[PEOPLE]


def _read(judge: Judge, texts: Sequence[str], found: Sequence[Opening]) -> Iterator[Reading]:
    for opening, text in zip(found, texts, strict=True):
        yield judge.read(opening.before, text)
