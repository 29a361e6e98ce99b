"""TextMeasures that models write after the beginnings of documents, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ssdcli.data.documents import Document
from ssdcli.evaluation.generated import can_measure_mauve, distinct, mauve, repetition, words, zipf
from ssdcli.evaluation.measurement import TextMeasures
from ssdcli.generation.types import Options, Request
from ssdcli.generation.writer import Writer
from ssdcli.text.chat import document

if TYPE_CHECKING:
    from ssdcli.models.judge import Judge, Reading

PEOPLE = "held-out text"

_TOKENS = 128  # of a text, at most
_CHARACTERS = 200  # of a document that are gone on from, half of it at most
_SHORTEST = 80  # characters of a document that is gone on from


@dataclass(frozen=True)
class Opening:
    """The beginning of a document: how a model is asked to go on, what stands before its text, what really follows."""

    request: Request
    before: str
    after: str


def openings(documents: Sequence[Document], most: int) -> list[Opening]:
    """The beginnings of the first documents that are long enough; conversations go on with their last answer."""
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
    """What an ensemble writes after each opening; its small models see the private context."""
    private = any(member.sees_context for member in writer.members)
    requests = [replace(opening.request, context=context if private else "") for opening in found]
    texts = []
    for result in writer.results(requests, Options(max_tokens=_TOKENS, seed=seed)):
        texts.append(result.text)
        on_progress(len(texts) / len(requests))
    return texts


def continued(writer: Writer, found: Sequence[Opening]) -> list[str]:
    """How the documents go on, as far as a model would write."""
    codec = writer.codec
    return [codec.decode(codec.encode(opening.after)[:_TOKENS]) for opening in found]


def measure_texts(
    written: Mapping[str, Sequence[str]], found: Sequence[Opening], judge: Judge | None, seed: int
) -> tuple[TextMeasures, ...]:
    """Measure every author's texts; MAUVE compares them with PEOPLE's."""
    readings = {} if judge is None else {who: list(_read(judge, texts, found)) for who, texts in written.items()}
    return tuple(
        replace(_texts(who, texts), perplexity=_perplexity(readings.get(who, [])), mauve=_mauve(readings, who, seed))
        for who, texts in written.items()
    )


def not_measured(judge: Judge | None) -> list[str]:
    """Sentences about what needs more to be measured."""
    said = []
    if judge is None:
        said.append("perplexity and MAUVE need a reader: name the folder of a causal language model with --judge")
    if not can_measure_mauve():
        said.append("MAUVE needs its library: pip install 'ssdcli[mauve]'")
    return said


def _texts(who: str, texts: Sequence[str]) -> TextMeasures:
    split = [words(text) for text in texts]
    shares = distinct(split, 1), distinct(split, 2), distinct(split, 3)
    return TextMeasures(who, len(texts), shares, repetition(split), zipf(split))


def _read(judge: Judge, texts: Sequence[str], found: Sequence[Opening]) -> Iterator[Reading]:
    for opening, text in zip(found, texts, strict=True):
        yield judge.read(opening.before, text)


def _perplexity(readings: Sequence[Reading]) -> float | None:
    """Of all texts together, a token of the judge's."""
    tokens = sum(reading.tokens for reading in readings)
    return math.exp(math.fsum(reading.nats for reading in readings) / tokens) if tokens else None


def _mauve(readings: Mapping[str, Sequence[Reading]], who: str, seed: int) -> float | None:
    """Of an author's texts against PEOPLE's; of PEOPLE's the ceiling, one half of their texts against the other.

    The halves are smaller samples than a whole against a whole, so the ceiling is, if anything, a little low.
    """
    if not readings or not can_measure_mauve():
        return None
    own, people = (np.stack([reading.features for reading in readings[name]]) for name in (who, PEOPLE))
    if who != PEOPLE:
        return mauve(own, people, seed)
    return mauve(people[::2], people[1::2], seed) if len(people) > 1 else None
