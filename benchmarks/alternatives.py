"""Instead of what? What else someone could do with their notes, a core and some minutes. Prints a table a corpus.

    python -m benchmarks alternatives --corpus TRAIN HELDOUT --minutes 10 --rates 0.003 0.001 0.0003 --out FILE
    python -m benchmarks alternatives --table FILE

On the bundled notebook and the corpora that are named: the core as it is; an adapter on it (LoRA); the core trained
further; the core that is shown the note most like the text before it (BM25 over all notes); a small model alone and
together with the core; and the small model shown that note in private. Each training has the same minutes of processor
time, divided by the number of threads, at each of some learning rates: the best is taken by the training's own held-out
text, and what the others took is not counted.

Losses are denoising losses, in nats per token, of blocks of held-out documents that no training saw, on the same noised
canvases for all, with self-conditioning off. All see windows of the same size before a block: a note takes a part of
it. The weight of an ensemble is chosen on one half of the documents for the other; gains are paired by document. Stored
is what is needed beside the core. Trained models and results are kept beside `--out`, and a run can be interrupted and
taken up again.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.lib.blends import Blend, Voice, alone, measure_blends, shared
from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import read_texts
from benchmarks.lib.experiment import (
    Corpus,
    Line,
    Workshop,
    corpora_of,
    heading,
    lines,
    parser_of,
    passages_of,
    tokenizer_of,
)
from benchmarks.lib.retrieval import Shelf
from benchmarks.lib.tables import spread, table
from benchmarks.lib.writing import borrowed
from ssdcli.evaluation.gaps import GapSettings, choose_gaps, left_side
from ssdcli.evaluation.sweep import GRID
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

WEIGHTS = GRID[1:-1]
_QUICK = {"minutes": 0.25, "size": "nano", "documents": 8, "repeats": 2, "rates": [3e-3]}


@dataclass(frozen=True)
class Way:
    """Something to do: the voices that take part, what is stored, and whether the core's owner has to share weights.

    voices: one, or the core's and another's, which are mixed.
    """

    title: str
    voices: tuple[str, ...]
    stored: tuple[str, ...]
    shares: str


CORE, LORA, FURTHER, SMALL = "core", "lora", "further", "small"
SHOWN = " shown a note"
NOTES = "notes"
WAYS = (
    Way("the core as it is", (CORE,), (), "no"),
    Way("an adapter on the core", (LORA,), (LORA,), "yes"),
    Way("the core trained further", (FURTHER,), (FURTHER,), "yes"),
    Way("the core, shown a note", (CORE + SHOWN,), (NOTES,), "no, but sees the notes"),
    Way("a small model alone", (SMALL,), (SMALL,), "the token table alone"),
    Way("a small model and the core", (CORE, SMALL), (SMALL,), "the token table alone"),
    Way(
        "a small model, shown a note in private, and the core",
        (CORE, SMALL + SHOWN),
        (SMALL, NOTES),
        "the token table alone",
    ),
)


@dataclass(frozen=True)
class Bench:
    """The command's arguments, and where its work is done."""

    arguments: argparse.Namespace
    workshop: Workshop

    def trained(self, what: str, corpus: Corpus, seed: int) -> str:
        """The name of the best of the models that were trained so, by its own held-out text."""
        found = {}
        for rate in self.arguments.rates:
            settings = replace(self._settings(what, corpus), seed=seed, learning_rate=rate)
            settings = replace(settings, name=f"{corpus.name}-{what}-{rate:g}-{seed}".replace(".", "_"))
            found[settings.name] = self.workshop.trained(settings)["own loss"]
        return min(found, key=lambda name: found[name])

    def _settings(self, what: str, corpus: Corpus) -> TrainSettings:
        """What is changed in all trainings, in those on a corpus, and in those of a kind."""
        arguments = self.arguments
        kinds: Mapping[str, Mapping[str, Any]] = {
            LORA: {"init": arguments.core, "lora": arguments.rank},
            FURTHER: {"init": arguments.core},
            SMALL: {"size": arguments.size},
        }
        data = (corpus.train,)
        settings = TrainSettings(data=data, core=arguments.core, minutes=arguments.minutes)
        return replace(settings, **corpus.changes, **kinds[what])


def main() -> None:
    """Train what is missing, measure what was not measured yet, and print the tables."""
    arguments = _arguments()
    if arguments.table is not None:
        print(report(lines(arguments.table)))
        return
    bench = Bench(arguments, Workshop(arguments))
    borrowed(bench.workshop, arguments.core)
    for seed in arguments.seeds:
        for corpus in corpora_of(arguments):
            asked = {"corpus": corpus.name, "seed": seed, "minutes": arguments.minutes}
            bench.workshop.piece(asked, lambda: measured(bench, corpus, seed))  # noqa: B023 - made at once
    print(report(lines(bench.workshop.out)))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--core", default=STARTER, help="the core, which is no part of what is stored")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-3, 1e-3, 3e-4], help="learning rates to try")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--size", help="of the small model, by default what train-small itself takes")
    parser.add_argument("--note", type=int, default=96, help="tokens of a note that are shown, at most")
    parser.add_argument("--repeats", type=int, default=8, help="blocks of a document that are measured")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(_QUICK)
    return arguments


def measured(bench: Bench, corpus: Corpus, seed: int) -> Line:
    """What every way loses on a corpus, and what it stores."""
    arguments, workshop = bench.arguments, bench.workshop
    names = {what: bench.trained(what, corpus, seed) for what in (LORA, FURTHER, SMALL)}
    denoisers = {what: workshop.denoiser(name) for what, name in {CORE: arguments.core, **names}.items()}
    room = min(denoiser.room for denoiser in denoisers.values())
    tokenizer = tokenizer_of(workshop.registry.find(arguments.core))
    texts = read_texts(Path(corpus.train))
    note = Shelf.of(texts, tokenizer, arguments.note, room).view()
    voices = {what: Voice(denoiser, left_side) for what, denoiser in denoisers.items()}
    voices |= {what + SHOWN: Voice(denoisers[what], note) for what in (CORE, SMALL)}
    block = denoisers[CORE].backbone.block_size
    settings = GapSettings(block, block, left=room, per_document=arguments.repeats)
    gaps = choose_gaps(passages_of(tokenizer, corpus.heldout, arguments.documents), settings)
    process = denoisers[CORE].process.name
    blends = [_blends(way, process) for way in WAYS]
    columns = measure_blends(voices, [blend for group in blends for blend in group], gaps, settings)
    sizes = {what: _size(workshop.registry.find(name).folder) for what, name in names.items()}
    sizes[NOTES] = len(gzip.compress("\n".join(texts).encode()))
    return {
        "tokens": int(columns.tokens.sum()),
        "names": names,
        "ways": _judged(columns, list(map(len, blends)), sizes),
    }


def _blends(way: Way, process: str) -> list[Blend]:
    """A voice alone, or two at every weight of the second."""
    if len(way.voices) == 1:
        return [alone(way.voices[0])]
    core, other = way.voices
    return [shared((core, other), weight, process) for weight in WEIGHTS]


def _judged(columns: Columns, counts: Sequence[int], sizes: Mapping[str, int]) -> list[Line]:
    """A line for each way: its loss, its gain over the core as it is with standard error, its weights, its bytes."""
    judged: list[Line] = []
    first = 0
    for way, count in zip(WAYS, counts, strict=True):
        places = range(first, first + count)
        sums, chosen = columns.crossed(places)
        gain, error = columns.mean(columns.sums[:, 0] - sums)
        judged.append(
            {
                "way": way.title,
                "loss": columns.mean(sums)[0],
                "gain": gain,
                "error": error,
                "weights": [WEIGHTS[place - first] for place in chosen] if len(places) > 1 else [],
                "bytes": sum(sizes[what] for what in way.stored),
            }
        )
        first = places.stop
    return judged


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


# Tables


def report(found: Sequence[Line]) -> str:
    """Means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups: dict[tuple[str, float], list[Line]] = {}
    for line in found:
        if "ways" in line:
            groups.setdefault((line["corpus"], line["minutes"]), []).append(line)
    return "\n\n".join([heading(found), *(_table(*name, group) for name, group in sorted(groups.items()))])


def _table(corpus: str, minutes: float, group: Sequence[Line]) -> str:
    header = [
        "way",
        "loss",
        "gain over the core",
        "±",
        "weight",
        "minutes",
        "bytes stored",
        "does the core's owner share weights?",
    ]
    rows: list[list[object]] = []
    for place, way in enumerate(WAYS):
        parts = [line["ways"][place] for line in group]
        gain, error = (sum(part[column] for part in parts) / len(parts) for column in ("gain", "error"))
        weights = " ".join(sorted({f"{weight:g}" for part in parts for weight in part["weights"]}))
        trains = any(what != NOTES for what in way.stored)
        loss = spread(float(part["loss"]) for part in parts)
        spent = f"{minutes:g}" if trains else "0"
        rows.append([way.title, loss, f"{gain:+.4f}", f"{error:.4f}", weights, spent, parts[0]["bytes"], way.shares])
    return f"## {corpus}\n\n{group[0]['tokens']:,} held-out tokens\n\n{table(header, rows)}"


if __name__ == "__main__":
    main()
