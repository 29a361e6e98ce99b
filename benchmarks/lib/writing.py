"""Texts that models write after the beginnings of held-out documents, what they cost, and how a judge finds them.

No text ends before its last token, so that all have the same length.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from benchmarks.lib.causal import Twin, save_for_transformers, train_causal, twin_of
from benchmarks.lib.experiment import Line, Workshop, budget
from benchmarks.lib.models import Model
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Options, Request, Writer
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.engine.ensemble.guidance import Guide
from ssdcli.engine.ensemble.members import Member
from ssdcli.evaluation.continuations import Continuation, continuations
from ssdcli.evaluation.generated import distinct_ngrams, repetition, words
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.judge import Judge, load_judge
from ssdcli.reports import charts
from ssdcli.text.codec import Codec
from ssdcli.training.settings import TrainSettings

WRITTEN = 48  # tokens of a text

_NO_END = (-1,)


def writer_of(members: Sequence[Member[LoadedModel]], core: Model, guides: Sequence[Guide] = ()) -> Writer:
    """A writer of these members whose texts do not end."""
    return Writer([member.carrying(_endless(member.model)) for member in members], core.name, guides=guides)


def _endless(model: LoadedModel) -> LoadedModel:
    return replace(model, format=replace(model.format, ends=_NO_END))


def write(writer: Writer, requests: Sequence[Request], options: Options) -> Line:
    """One text for each request, as `ssd generate` writes a batch, and the mean cost of a text.

    seconds: of the processor; several texts are written at once.
    steps: of all blocks of a text together.
    """
    began = processor_seconds()
    results = writer.generate_batch(requests, options)
    spent = sum(use.flops for result in results for use in result.members)
    return {
        "texts": [result.text for result in results],
        "seconds": round((processor_seconds() - began) / len(requests), 4),
        "steps": sum(result.steps for result in results) / len(requests),
        "flops": spent / len(requests),
    }


# The judge


def add_judge(parser: ArgumentParser) -> None:
    """Add the arguments that name a judge, or say how long one is trained."""
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="a causal model in transformers' format")
    parser.add_argument("--judge-minutes", type=float, default=20.0, help="of processor time to train one instead")


@dataclass(frozen=True)
class Bench:
    """Beginnings of held-out documents that a core's tokens are written after, and the judge of what is written."""

    workshop: Workshop
    core: Model
    given: Namespace
    data: Sequence[str]  # that a judge is trained on where none is named
    heldout: str = ""

    @cached_property
    def continuations(self) -> list[Continuation]:
        """The beginnings of the first documents that are long enough."""
        return continuations(list(read_documents([self.heldout], ReadReport())), self.given.rows)

    @property
    def requests(self) -> list[Request]:
        """What writers are asked for."""
        return [one.request for one in self.continuations]

    def real(self) -> Line:
        """What the judge finds of the documents' own continuations, cut to the length of the written ones."""
        codec = Codec(self.core.tokenizer)
        return self.judged([codec.decode(codec.encode(one.after)[:WRITTEN]) for one in self.continuations])

    def judged(self, texts: Sequence[str], befores: Sequence[str] | None = None) -> Line:
        """The judge's nats per token of each text after its beginning, and how varied and repetitive all texts are."""
        befores = [one.before for one in self.continuations] if befores is None else befores
        readings = [self.judge.read(before, text) for before, text in zip(befores, texts, strict=True)]
        split = [words(text) for text in texts]
        return {
            "nats": [round(reading.nats / max(1, reading.tokens), 4) for reading in readings],
            "distinct-2": round(distinct_ngrams(split, 2), 4),
            "repetition": round(repetition(split), 4),
        }

    @cached_property
    def judge(self) -> Judge:
        """The judge that is named, or else a causal model of the core's shape and tokens, trained once on the data."""
        if self.given.judge is not None:
            return load_judge(self.given.judge)
        folder = self.workshop.home / f"judge-of-{self.core.name}"
        if not (folder / "tokenizer.json").exists():
            tokenizer, config = self.core.folder / "tokenizer.json", load_backbone(self.core.folder).config
            twin = Twin(replace(twin_of(config), rank=config.hidden), tokenizer)
            settings = TrainSettings(data=tuple(self.data), name="judge", batch_tokens=2048, learning_rate=3e-3)
            length = budget(self.given) if self.given.quick else {"minutes": self.given.judge_minutes}
            made = train_causal(replace(settings, **length), twin, folder.with_suffix(".native"), processor_seconds)
            save_for_transformers(made.model, tokenizer, folder)
        return load_judge(folder)


def draw(picture: ET.Element, path: Path) -> None:
    """Write a picture as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(charts.to_svg(picture), encoding="utf-8")
