"""Is an ensemble as often right about held-out notes as it is confident, and what does a fitted confidence change?

    python -m benchmarks calibration --small NAME HELDOUT --small NAME HELDOUT --out FILE
    python -m benchmarks calibration --table FILE

Each small model is of the user's registry, and writes with its core and its memory as `ssd generate --with NAME` does,
after places of held-out notes that are drawn at random: a word, a phrase of three words, and a sentence of each, which
are right if the notes have the same words there. The core and the small model alone, and both without the memory, write
after the same places. The confidence of an ensemble is the one that its training fitted. ECE is the expected
calibration error in ten bins, with 95% intervals from a bootstrap over notes; beside it stands what it would be on as
many items if the confidence were exactly right. Nats are those of being right or wrong, by the confidence.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from benchmarks.lib.corpora import read_texts
from benchmarks.lib.experiment import Line, Workshop, grouped
from benchmarks.lib.tables import table
from ssdcli.data.documents import Document
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.evaluation.calibration import calibration_error, items, places_of
from ssdcli.generation.blend import Blend
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.registry.names import NO_CORE

ENSEMBLE, WITHOUT = "ensemble", "ensemble without its memory"
_DRAWS = 200  # of items that are right as often as the confidence says
_CLIP = 1e-6  # so that nats are finite


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--small", nargs=2, action="append", default=[], metavar=("NAME", "HELDOUT"))
    parser.add_argument("--places", type=int, default=250, help="of each kind of notes")
    parser.add_argument("--seed", type=int, default=0)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each small model and author."""
    for name, heldout in given.small:
        model = workshop.model(name)
        core = str(model.manifest.core)
        workshop.model(core)
        specs = {
            core: choose(core, None, workshop.registry),
            name: choose(NO_CORE, {name: 1.0}, workshop.registry),
            ENSEMBLE: choose(core, {name: None}, workshop.registry),
            WITHOUT: choose(core, {name: None}, workshop.registry, Blend(memory=False)),
        }
        documents = [Document(text, heldout) for text in read_texts(heldout)]
        for author, spec in specs.items():
            make = partial(_written, spec, documents, given)
            workshop.piece({"notes": name, "author": author}, make)
            sure = spec.confidence or Confidence()
            workshop.piece({"notes": name, "of": author, "confidence": [sure.offset, sure.slope]}, dict)


def _written(spec: EnsembleSpec, documents: Sequence[Document], given: Namespace) -> Line:
    places = places_of(documents, given.places, given.seed)
    found = items(spec.open(), places, lambda _: None)
    return {
        "documents": [item.document for item in found],
        "units": [item.unit for item in found],
        "p": [[round(p, 6) for p in item.p] for item in found],
        "right": [item.right for item in found],
    }


def report(found: Sequence[Line]) -> str:
    """The tables of each kind of notes, and one of the ensembles' items on all of them."""
    fitted = {(line["notes"], line["of"]): Confidence(*line["confidence"]) for line in found if "of" in line}
    parts = [
        (notes, author, _columns(line, fitted[notes, author]))
        for (notes, author), (line, *_) in grouped(found, "notes", "author").items()
    ]
    together = _joined([columns for _, author, columns in parts if author == ENSEMBLE])
    titled = [*((f"{notes}: {author}", columns) for notes, author, columns in parts), ("all notes: ensemble", together)]
    header = [
        "author",
        "unit",
        "items",
        "right",
        "confidence",
        "ECE",
        "if exact",
        "ECE, fitted",
        "if exact",
        "nats",
        "fitted",
    ]
    return table(header, [row for title, columns in titled for row in _rows(title, columns)])


Columns = Mapping[str, np.ndarray]


def _columns(line: Line, fitted: Confidence) -> Columns:
    """Items of an author: the probability and the fitted confidence of each, and whether it is right."""
    return {
        "plain": np.array([Confidence().of(p) for p in line["p"]]),
        "fitted": np.array([fitted.of(p) for p in line["p"]]),
        "right": np.array(line["right"], float),
        "unit": np.array(line["units"]),
        "document": np.array(line["documents"]),
    }


def _joined(parts: Sequence[Columns]) -> Columns:
    """The items of all parts, whose notes are different ones."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    numbers = [part["document"] + place * 10**6 for place, part in enumerate(parts)]
    return joined | {"document": np.concatenate(numbers)}


def _rows(title: str, columns: Columns) -> Iterator[list[object]]:
    for unit in (*dict.fromkeys(columns["unit"].tolist()), "all"):
        own = columns["unit"] == unit if unit != "all" else np.ones(len(columns["unit"]), bool)
        right, document = columns["right"][own], columns["document"][own]
        found = [_errors(columns[name][own], right, document) for name in ("plain", "fitted")]
        nats = [f"{_nats(columns[name][own], right):.4f}" for name in ("plain", "fitted")]
        share, sure = f"{right.mean():.3f}", f"{columns['fitted'][own].mean():.3f}"
        yield [title, unit, len(right), share, sure, *found[0], *found[1], *nats]


def _errors(confidence: np.ndarray, right: np.ndarray, documents: np.ndarray) -> tuple[str, str]:
    """The calibration error, and its mean where each item is right as often as the confidence says."""
    random, own = np.random.default_rng(0), calibration_error(confidence, right, documents)
    one = np.zeros(len(right))  # no interval is needed
    drawn = [(random.random(len(right)) < confidence).astype(float) for _ in range(_DRAWS)]
    exact = float(np.mean([calibration_error(confidence, outcome, one).value for outcome in drawn]))
    return f"{own.value:.3f} ± {own.margin:.3f}", f"{exact:.3f}"


def _nats(confidence: np.ndarray, right: np.ndarray) -> float:
    p = np.clip(np.where(right > 0, confidence, 1 - confidence), _CLIP, 1)
    return float(-np.log(p).mean())
