"""Which denoising steps need the large model? All schedules of a light and a heavy member at equal FLOPs.

    python -m benchmarks schedules --general TRAIN HELDOUT --corpus TRAIN HELDOUT --cores starter my-masked --out FILE
    python -m benchmarks schedules --table FILE --plot FOLDER

The trajectory is divided into equal segments of t. On general text, the core's own, the heavy member is the core alone
and the light one a small model of the same text, as in the paper. On other text the small model knows it better: the
heavy member is the core together with the small model at its tuned weight, and the light one the small model alone.

The search is exhaustive and costs nothing: denoising losses add up over the segments (see lib/segments.py). The best
schedule is always chosen on one half of the documents and counted on the other, both ways. Self-conditioning is off.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, corpora_of
from benchmarks.lib.experiment import Line, Workshop, add_arguments, budget, grouped
from benchmarks.lib.models import Model
from benchmarks.lib.segments import (
    HEAVY,
    LIGHT,
    SANDWICH,
    SEGMENTS,
    WINDOWS,
    Levels,
    all_schedules,
    document_losses,
    shapes,
)
from benchmarks.lib.tables import signed, table
from ssdcli.generation.parts import UNTUNED
from ssdcli.registry.store import STARTER
from ssdcli.reports import charts
from ssdcli.training.settings import TrainSettings

QUICK = {"documents": 8}
COUNTS = (2, 4, 6)  # heavy segments of the schedules that are compared
BEST, WORST = "best", "worst"
LEVELS = "levels"
HEADER = ["schedule", "segments from t = 1 on", "FLOPs saved", "nats per token", "over the sandwich", "place"]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    parser.add_argument("--general", nargs=2, metavar=("TRAIN", "HELDOUT"), help="the cores' own text")
    parser.add_argument("--cores", nargs="+", default=[STARTER], help="cores of the user's registry")
    parser.add_argument("--size", default="nano", help="of the small models")


# The work


def work(given: Namespace, workshop: Workshop) -> None:
    """Train and measure every core with a small model of every text."""
    general = [Corpus.of(*given.general)] if given.general else []
    for core, corpus, seed in product(map(workshop.model, given.cores), [*general, *corpora_of(given)], given.seeds):
        name = f"{core.name}-{corpus.name}-{given.size}-{seed}"
        settings = TrainSettings(data=(corpus.train,), core=core.name, name=name, size=given.size, seed=seed)
        workshop.trained(replace(settings, **corpus.changes, **budget(given)))
        small = workshop.model(name)
        share = 0.0 if corpus in general else small.manifest.weight or UNTUNED
        asked = {"core": core.name, "corpus": corpus.name, "small": name, "seed": seed, "piece": LEVELS}
        workshop.piece(asked, partial(levels_of, (core, small), share, corpus, given.documents))


def levels_of(models: tuple[Model, Model], share: float, corpus: Corpus, documents: int | None) -> Line:
    """The losses by segment, and the FLOPs of a step of the heavy and the light member in mid-window."""
    networks, process = [model.backbone for model in models], models[0].process
    texts = models[0].scored_texts(corpus.heldout, documents)
    losses = [document_losses(networks, process, text, share, key) for key, text in enumerate(texts)]
    window = min(network.context for network in networks)
    core, small = (model.denoiser.flops(model.backbone.block_size, window // 2) for model in models)
    return {
        "share": share,
        "flops": [core + small if share else core, small],
        "tokens": [sum(text.counted[: WINDOWS * window]) for text in texts],
        "losses": torch.stack(losses).numpy().round(3).tolist(),
    }


# The tables


def pairs_of(found: Sequence[Line]) -> dict[tuple[str, ...], Line]:
    """What was measured of each pair, by its core, corpus and small model."""
    groups = grouped([line for line in found if line.get("piece") == LEVELS], "core", "corpus", "small")
    return {names: group[-1] for names, group in groups.items()}


def report(found: Sequence[Line]) -> str:
    """Both tables of every pair."""
    return "\n\n".join(_tables(names, line) for names, line in pairs_of(found).items())


def _tables(names: tuple[str, ...], line: Line) -> str:
    core, corpus, small = names
    share = line["share"]
    return "\n\n".join(
        [
            f"## {core}, {corpus}",
            f"Heavy: {f'{core} with {small} at {share:g}' if share else core}; light: {small}.",
            f"Losses of {len(line['tokens'])} held-out documents, nats per token; t falls from 1 to 0:",
            level_table(Levels.of(line), bool(share)),
            "Under schedules:",
            table(HEADER, list(Outcome.of(line).cells())),
        ]
    )


def level_table(levels: Levels, together: bool) -> str:
    """The losses by segment."""
    names = ["core", "small", *(["together"] if together else [])]
    rows: list[list[object]] = []
    for place in range(SEGMENTS):
        sums = np.stack([levels.core, levels.small, levels.heavy, levels.apart], -1)[:, place]
        columns = Columns(sums, levels.tokens)
        means = [f"{columns.loss(k)[0]:.4f}" for k in range(len(names))]
        between = f"{1 - place / SEGMENTS:g} to {1 - (place + 1) / SEGMENTS:g}"
        pairs = columns.gain(2, over=1), columns.loss(3)
        rows.append([between, *means, *(f"{value:.4f} ± {error:.4f}" for value, error in pairs)])
    return table(["t", *names, "light less heavy", "KL(core, small)"], rows)


@dataclass(frozen=True)
class Row:
    """Schedules under one name, their place among those of equal cost, and each document's loss under them."""

    name: str
    schedules: tuple[str, ...]
    place: str
    sums: np.ndarray


def compared(columns: Columns, schedules: Sequence[str], heavy: int) -> dict[str, Row]:
    """Those with so many heavy segments: the shapes, and of several the best and the worst, chosen as told above."""
    group = [place for place, schedule in enumerate(schedules) if schedule.count(HEAVY) == heavy]
    order = sorted(group, key=lambda place: float(columns.sums[:, place].sum()))
    rows = {}
    for name, schedule in shapes(heavy).items():
        place = schedules.index(schedule)
        rows[name] = Row(name, (schedule,), f"{order.index(place) + 1} of {len(group)}", columns.sums[:, place])
    for name, sign in ((BEST, 1), (WORST, -1)) if len(group) > 1 else ():
        sums, chosen = Columns(sign * columns.sums, columns.tokens).crossed(group)
        rows[name] = Row(name, tuple(dict.fromkeys(schedules[place] for place in chosen)), "", sign * sums)
    return rows


@dataclass(frozen=True)
class Outcome:
    """Losses under all schedules, and the share of the heavy member's FLOPs that a light segment saves."""

    columns: Columns
    schedules: Sequence[str]
    saving: float

    @classmethod
    def of(cls, line: Line) -> Outcome:
        """Read what was measured; FLOPs are those of denoising steps in mid-window."""
        heavy, light = line["flops"]
        schedules = [schedule for count in (0, *COUNTS, SEGMENTS) for schedule in all_schedules(count)]
        return cls(Levels.of(line).by_schedule(schedules), schedules, (1 - light / heavy) / SEGMENTS)

    def saved(self, schedule: str) -> float:
        """The percentage of the heavy member's FLOPs that a schedule saves."""
        return 100 * schedule.count(LIGHT) * self.saving

    def by_cost(self) -> list[dict[str, Row]]:
        """The rows of each number of heavy segments, the most first."""
        return [compared(self.columns, self.schedules, heavy) for heavy in (SEGMENTS, *reversed(COUNTS), 0)]

    def cells(self) -> Iterator[list[object]]:
        """The cells of each row, the most expensive first."""
        for rows in self.by_cost():
            for row in rows.values():
                loss, _ = self.columns.mean(row.sums)
                over = self.columns.mean(row.sums - rows[SANDWICH].sums) if SANDWICH in rows else (0.0, 0.0)
                cost, more = f"{self.saved(row.schedules[0]):.1f}%", signed(*over) if over[1] > 0 else ""
                yield [row.name, " and ".join(row.schedules), cost, f"{loss:.4f}", more, row.place]


def plot(found: Sequence[Line], folder: Path) -> None:
    """A picture of each pair's losses over the noise level."""
    folder.mkdir(parents=True, exist_ok=True)
    for (core, corpus, _), line in pairs_of(found).items():
        levels = Levels.of(line)
        members = {"core": levels.core, "small": levels.small, "KL": levels.apart}
        by_level = {name: (sums.sum(0) / levels.tokens.sum())[::-1].tolist() for name, sums in members.items()}
        picture = charts.level_losses(by_level, f"Loss by noise level: {core}, {corpus}")
        (folder / f"schedules-{core}-{corpus}-levels.svg").write_text(charts.to_svg(picture), encoding="utf-8")
