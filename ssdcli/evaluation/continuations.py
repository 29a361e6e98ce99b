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
    from ssdcli.models.judge import Judge, Judgement

PEOPLE = "held-out text"

_TOKENS = 128  # that are written, at most
_CHARACTERS = 200  # of a document's beginning, at most; and no more than half of the document
_SHORTEST = 80  # characters of a document that is continued, at least


@dataclass(frozen=True)
class Continuation:
    """A document that models continue from its beginning.

    request: asks a model to continue the beginning.
    before: the text before what the model writes.
    after: how the document really continues.
    """

    request: Request
    before: str
    after: str


def continuations(documents: Sequence[Document], most: int) -> list[Continuation]:
    """The first documents that are long enough, cut at some word; conversations are cut before their last answer.

    A model continues a document as text, and answers a conversation as it was trained to.
    """
    fitting = (one for one in documents if one.turns or len(one.text) >= _SHORTEST)
    return [_continuation(one) for one, _ in zip(fitting, range(most), strict=False)]


def _continuation(one: Document) -> Continuation:
    if one.turns:
        *asked, answer = one.turns
        return Continuation(Request(messages=tuple(asked)), document(asked), answer.content)
    beginning = one.text[: min(_CHARACTERS, len(one.text) // 2)].rsplit(maxsplit=1)[0]
    return Continuation(Request(beginning, plain=True), beginning, one.text[len(beginning) :])


def write(
    writer: Writer, found: Sequence[Continuation], context: str, seed: int, on_progress: Callable[[float], None]
) -> list[str]:
    """Let an ensemble continue each document; its small models see the private context."""
    private = any(member.sees_context for member in writer.members)
    requests = [replace(one.request, context=context if private else "") for one in found]
    texts = []
    for result in writer.results(requests, Options(max_tokens=_TOKENS, seed=seed)):
        texts.append(result.text)
        on_progress(len(texts) / len(requests))
    return texts


def continued(writer: Writer, found: Sequence[Continuation]) -> list[str]:
    """How the documents continue, cut to the length that models write."""
    codec = writer.codec
    return [codec.decode(codec.encode(one.after)[:_TOKENS]) for one in found]


def measure_texts(
    written: Mapping[str, Sequence[str]], found: Sequence[Continuation], judge: Judge | None, seed: int
) -> tuple[TextMeasures, ...]:
    """Measure every author's texts; those of PEOPLE are the reference for the others."""
    readings = {who: () if judge is None else tuple(_read(judge, texts, found)) for who, texts in written.items()}
    return tuple(
        _measures(who, Written([words(text) for text in texts], readings[who], _reference(readings, who), seed))
        for who, texts in written.items()
    )


def _measures(who: str, written: Written) -> TextMeasures:
    return TextMeasures(who, len(written.texts), {name: metric(written) for name, metric in METRICS.items()})


def _reference(readings: Mapping[str, Sequence[Judgement]], who: str) -> Sequence[Judgement]:
    return () if who == PEOPLE else readings[PEOPLE]


def _read(judge: Judge, texts: Sequence[str], found: Sequence[Continuation]) -> Iterator[Judgement]:
    for one, text in zip(found, texts, strict=True):
        yield judge.read(one.before, text)
