"""Texts that models write after the beginnings of held-out documents, what they take, and how a judge finds them.

No text ends before its last token, so that all are of one length.
"""

from __future__ import annotations

import argparse
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.causal import Twin, save_for_transformers, train_causal, twin_of
from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import Workshop, tokenizer_of
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Options, Request, Writer
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.demo.story import Fact
from ssdcli.engine.ensemble.guidance import Guide
from ssdcli.engine.ensemble.schedules import Schedule
from ssdcli.errors import NoSuchModel
from ssdcli.evaluation.continuations import Opening, openings
from ssdcli.evaluation.generated import distinct, repetition, words
from ssdcli.generation.prompting import Voice
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.judge import Judge, load_judge
from ssdcli.registry.store import Entry, Registry
from ssdcli.reports import charts
from ssdcli.text.codec import Language
from ssdcli.training.settings import TrainSettings

WRITTEN = 48  # tokens that are written
MEASURES = ("distinct-2", "repetition", "facts", "seconds")

_FACT_TOKENS = 16
_PACE = {"batch_tokens": 2048, "learning_rate": 3e-3}  # of the judge's training
_QUICK_STEPS = 60
_NO_END = (-1,)


@dataclass(frozen=True)
class Beginnings:
    """How held-out documents begin, and how they go on, as far as others write."""

    openings: Sequence[Opening]
    endings: Sequence[str]

    @property
    def requests(self) -> list[Request]:
        """What writers are asked for."""
        return [opening.request for opening in self.openings]


def beginnings(heldout: str, core: Entry, count: int) -> Beginnings:
    """Those of the first documents that are long enough."""
    found = openings(list(read_documents([heldout], ReadReport())), count)
    language = Language(tokenizer_of(core), _NO_END)
    return Beginnings(found, [language.decode(language.encode(one.after)[:WRITTEN]) for one in found])


def borrowed(workshop: Workshop, name: str) -> Entry:
    """A model of the workshop, copied from the user's registry where it is not there yet."""
    try:
        return workshop.registry.find(name)
    except NoSuchModel:
        shutil.copytree(Registry().find(name).folder, workshop.registry.models / name)
    return workshop.registry.find(name)


# Writing


def scheduled(voices: Sequence[Voice], schedules: Sequence[Schedule]) -> list[Voice]:
    """The voices, each at its schedule."""
    return [replace(voice, schedule=schedule) for voice, schedule in zip(voices, schedules, strict=True)]


def writer_of(voices: Sequence[Voice], core: Entry, guides: Sequence[Guide] = ()) -> Writer:
    """The voices as a writer whose texts do not end."""
    return Writer(voices, Language(tokenizer_of(core), _NO_END), core.name, guides=guides)


def write(writer: Writer, requests: Sequence[Request], options: Options) -> dict[str, Any]:
    """One text for each request, as `ssd generate` writes a batch, and what a text took in the mean.

    seconds: of the processor, where `Writer` writes several texts at once. steps: of a text, all blocks together.
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


def facts_told(writer: Writer, facts: Sequence[Fact], steps: int | None) -> int | None:
    """How many facts the likeliest texts after their beginnings tell; None where there are none to tell."""
    if not facts:
        return None
    options = Options(max_tokens=_FACT_TOKENS, steps=steps, seed=0, temperature=0)
    results = writer.generate_batch([Request(fact.prompt) for fact in facts], options)
    return sum(_says(result.text, fact.answer) for result, fact in zip(results, facts, strict=True))


def _says(text: str, answer: str) -> bool:
    return " ".join(answer.split()).casefold() in " ".join(text.split()).casefold()


# The judge


def add_judge(parser: argparse.ArgumentParser) -> None:
    """The arguments by which a judge is named, or trained."""
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="a causal model in transformers' format")
    parser.add_argument("--judge-minutes", type=float, default=20.0, help="of processor time for training one instead")


def judge_of(workshop: Workshop, core: Entry, data: Sequence[str], given: argparse.Namespace) -> Judge:
    """The judge that is named, or else a causal model of a core's shape and tokens, trained once on the data."""
    if given.judge is not None:
        return load_judge(given.judge)
    folder = workshop.home / f"judge-of-{core.name}"
    if not (folder / "tokenizer.json").exists():
        tokenizer, config = core.folder / "tokenizer.json", load_backbone(core.folder).config
        twin = Twin(replace(twin_of(config), rank=config.hidden), tokenizer)
        budget = {"steps": _QUICK_STEPS} if given.quick else {"minutes": given.judge_minutes}
        settings = TrainSettings(data=tuple(data), name="judge", **_PACE, **budget)
        made = train_causal(settings, twin, folder.with_suffix(".native"), processor_seconds)
        save_for_transformers(made.model, tokenizer, folder)
    return load_judge(folder)


def judged(judge: Judge, texts: Sequence[str], found: Beginnings) -> dict[str, Any]:
    """The judge's nats per token of each text after its beginning, and how varied and how repetitive all are."""
    readings = [judge.read(opening.before, text) for text, opening in zip(texts, found.openings, strict=True)]
    split = [words(text) for text in texts]
    return {
        "nats": [round(reading.nats / max(1, reading.tokens), 4) for reading in readings],
        "distinct-2": round(distinct(split, 2), 4),
        "repetition": round(repetition(split), 4),
    }


def by_text(figures: Sequence[Sequence[float]]) -> Columns:
    """Figures of the same texts, one sequence a way of writing, as columns in which each text counts the same."""
    sums = np.array(figures, dtype=np.float64).T
    return Columns(sums, np.ones(len(sums)))


def draw(picture: ET.Element, path: Path) -> None:
    """Write a picture as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(charts.to_svg(picture), encoding="utf-8")
