"""Instead of what? What else can be done with some notes, a core and a few minutes?

    python -m benchmarks alternatives --corpus TRAIN HELDOUT --minutes 10 --rates 0.003 0.001 0.0003 --out FILE
    python -m benchmarks alternatives --table FILE

On the bundled notebook and the given corpora: the core as it is; a LoRA on it; the core trained further; the core that
is shown the note most like the text (BM25 over all notes); a small model alone and together with the core; and the
small model shown that note in private. Every training has the same minutes of processor time at each of some learning
rates; the best rate is chosen on the training's own held-out text, and the time of the others is not counted.

Losses are denoising losses in nats per token of blocks of held-out documents that no training saw, on the same noised
canvases for all, with self-conditioning off. All see windows of the same size before a block; a note takes up part of
it. An ensemble's weight is chosen on one half of the documents for the other; gains are paired by document. "Bytes
stored" is what is needed besides the core.
"""

from __future__ import annotations

import gzip
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, corpora_of, read_texts
from benchmarks.lib.experiment import Line, Workshop, add_arguments, gain_of, grouped, weights_of
from benchmarks.lib.gaps import combined, steady
from benchmarks.lib.models import Model
from benchmarks.lib.retrieval import SHOWN, add_notes, gaps_of
from benchmarks.lib.tables import spread, table
from ssdcli.engine.ensemble.schedules import sharing
from ssdcli.evaluation.losses import GRID
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

QUICK = {"minutes": 0.25, "size": "nano", "documents": 8, "repeats": 2, "rates": [3e-3]}
WEIGHTS = GRID[1:-1]
CORE, LORA, FURTHER, SMALL, NOTES = "core", "lora", "further", "small", "notes"


@dataclass(frozen=True)
class Way:
    """Something to do.

    members: one, or the core and another that are mixed.
    stored: what is needed besides the core.
    shares: whether the core's owner has to share weights.
    """

    title: str
    members: tuple[str, ...]
    stored: tuple[str, ...]
    shares: str


_TABLE = "the token table alone"
WAYS = (
    Way("the core as it is", (CORE,), (), "no"),
    Way("a LoRA on the core", (LORA,), (LORA,), "yes"),
    Way("the core trained further", (FURTHER,), (FURTHER,), "yes"),
    Way("the core, shown a note", (CORE + SHOWN,), (NOTES,), "no, but sees the notes"),
    Way("a small model alone", (SMALL,), (SMALL,), _TABLE),
    Way("a small model and the core", (CORE, SMALL), (SMALL,), _TABLE),
    Way("a small model, shown a note in private, and the core", (CORE, SMALL + SHOWN), (SMALL, NOTES), _TABLE),
)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    add_notes(parser, repeats=8)
    parser.add_argument("--core", default=STARTER, help="the core, which does not count as stored")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-3, 3e-4], help="learning rates to try")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRA")
    parser.add_argument("--size", help="of the small model, by default the one that train-small chooses")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus and seed."""
    for seed, corpus in product(given.seeds, corpora_of(given)):
        asked = {"corpus": corpus.name, "seed": seed, "minutes": given.minutes}
        workshop.piece(asked, partial(measured, workshop, corpus, seed, given))


def trained(workshop: Workshop, what: str, corpus: Corpus, seed: int, given: Namespace) -> Model:
    """The best of the models that were trained in one way, by its own held-out text."""
    kinds: Mapping[str, Mapping[str, Any]] = {
        LORA: {"init": given.core, "lora": given.rank},
        FURTHER: {"init": given.core},
        SMALL: {"size": given.size},
    }
    settings = TrainSettings(data=(corpus.train,), core=given.core, minutes=given.minutes, seed=seed)
    settings = replace(settings, **corpus.changes, **kinds[what])
    losses = {}
    for rate in given.rates:
        name = f"{corpus.name}-{what}-{rate:g}-{seed}".replace(".", "_")
        losses[name] = workshop.trained(replace(settings, name=name, learning_rate=rate))["own loss"]
    return workshop.model(min(losses, key=lambda name: losses[name]))


def measured(workshop: Workshop, corpus: Corpus, seed: int, given: Namespace) -> Line:
    """What every way loses on a corpus, and what it stores."""
    models = {CORE: workshop.model(given.core)}
    models |= {what: trained(workshop, what, corpus, seed, given) for what in (LORA, FURTHER, SMALL)}
    viewers, measure = gaps_of(models, (CORE, SMALL), corpus, given)
    process = models[CORE].process.name
    combinations = []
    for way in WAYS:
        if len(way.members) == 1:
            combinations.append([steady(viewers, {way.members[0]: 1.0})])
        else:
            pairs = (dict(zip(way.members, sharing(weight, process), strict=True)) for weight in WEIGHTS)
            combinations.append([combined(viewers, pair) for pair in pairs])
    columns = measure([one for group in combinations for one in group])
    sizes = {
        what: sum(path.stat().st_size for path in model.folder.glob("*.safetensors")) for what, model in models.items()
    }
    sizes[NOTES] = len(gzip.compress("\n".join(read_texts(corpus.train)).encode()))
    return {
        "tokens": int(columns.tokens.sum()),
        "names": {what: model.name for what, model in models.items()},
        "ways": _judged(columns, list(map(len, combinations)), sizes),
    }


def _judged(columns: Columns, counts: Sequence[int], sizes: Mapping[str, int]) -> list[Line]:
    """A line for each way: its loss, its gain over the core as it is, its weights, its bytes."""
    judged: list[Line] = []
    first = 0
    for way, count in zip(WAYS, counts, strict=True):
        places = range(first, first + count)
        sums, chosen = columns.crossed(places)
        gain, error = columns.mean(columns.sums[:, 0] - sums)
        weights = [WEIGHTS[place - first] for place in chosen] if count > 1 else []
        loss, stored = columns.mean(sums)[0], sum(sizes[what] for what in way.stored)
        judged.append({"loss": loss, "gain": gain, "error": error, "weights": weights, "bytes": stored})
        first = places.stop
    return judged


HEADER = ["way", "loss", "gain over the core", "weight", "minutes", "bytes stored", "core's owner shares weights?"]


def report(found: Sequence[Line]) -> str:
    """A table for each corpus: means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups = grouped([line for line in found if "ways" in line], "corpus", "minutes")
    return "\n\n".join(_table(group, *name) for name, group in groups.items())


def _table(group: Sequence[Line], corpus: str, minutes: float) -> str:
    rows: list[list[object]] = []
    for place, way in enumerate(WAYS):
        parts = [line["ways"][place] for line in group]
        spent = f"{minutes:g}" if set(way.stored) - {NOTES} else "0"
        loss, stored = spread(part["loss"] for part in parts), parts[0]["bytes"]
        rows.append([way.title, loss, gain_of(parts), weights_of(parts), spent, stored, way.shares])
    return f"## {corpus}\n\n{group[0]['tokens']:,} held-out tokens\n\n{table(HEADER, rows)}"
