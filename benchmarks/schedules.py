"""Which denoising steps need the large model? All schedules of a light and a heavy member at equal FLOPs.

    python -m benchmarks schedules --general TRAIN HELDOUT --corpus TRAIN HELDOUT --cores starter my-masked --out FILE
    python -m benchmarks schedules --table FILE --plot FOLDER

After "Not all denoising steps are equal" (Sedykh, Sorokin and Malykh, 2026): the trajectory from noise to text has
SEGMENTS equal segments, in each of which either the heavy or the light member denoises. The cores are those of the
user's registry. For each, a small model is trained on the general text, which should be the core's own, so that both
know the same and the core is the heavy member, as in the paper; and one on each given corpus and the bundled notebook,
where, as in `--schedule sandwich`, the heavy member is the core with the small model at its tuned weight, and the light
one the small model alone.

The search by denoising loss is exhaustive and costs nothing: losses add up over the segments (see lib/segments.py).
Texts have no such law, since a step begins where the one before it ended: they are written under schedules of some
shapes, by each member alone, and for general text under all schedules that are half heavy. A causal model that was
trained on all of the texts judges them. The best schedule is always chosen on one half of the documents and counted on
the other, both ways. Self-conditioning is off where losses are measured, and on where texts are written.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
    Segments,
    all_schedules,
    document_losses,
    shapes,
)
from benchmarks.lib.tables import mean, signed, table
from benchmarks.lib.writing import WRITTEN, Bench, add_judge, draw, write, writer_of
from ssdcli.api import Options, Request, Writer, choose
from ssdcli.demo.story import Fact
from ssdcli.engine.ensemble.members import Member
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.generation.selection import UNTUNED
from ssdcli.registry.store import STARTER
from ssdcli.reports import charts
from ssdcli.reports.drawing import Point
from ssdcli.training.settings import TrainSettings

QUICK = {"documents": 8, "rows": 8, "steps": SEGMENTS}
COUNTS = (2, 4, 6)  # heavy segments of the schedules that are compared
BEST, WORST = "best", "worst"
LEVELS, REAL = "levels", "the text itself"
MEASURES = ("distinct-2", "repetition", "facts", "seconds")
HEADER = ["schedule", "segments from t = 1 on", "FLOPs saved", "nats per token", "over the sandwich", "place"]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    parser.add_argument("--general", nargs=2, metavar=("TRAIN", "HELDOUT"), help="the cores' own text")
    parser.add_argument("--cores", nargs="+", default=[STARTER], help="cores of the user's registry")
    parser.add_argument("--size", default="nano", help="of the small models")
    parser.add_argument("--rows", type=int, default=64, help="texts under each schedule")
    parser.add_argument("--steps", type=int, help="a block, by default the noise process's own")
    add_judge(parser)


# The work


@dataclass(frozen=True)
class Pair(Bench):
    """A core and a small model made for it.

    share: the small model's weight where both run; 0 if the core runs alone.
    """

    small: Model | None = None
    facts: Sequence[Fact] = ()
    share: float = 0.0

    @cached_property
    def _members(self) -> tuple[Member[LoadedModel], ...]:
        assert self.small is not None
        return choose(self.core.name, {self.small.name: 0.5}, self.workshop.registry).open().members

    def levels(self) -> Line:
        """The losses by segment, and the FLOPs of a step of the heavy and the light member in mid-window."""
        denoisers = [member.model.denoiser for member in self._members]
        networks, process = [denoiser.backbone for denoiser in denoisers], denoisers[0].process
        texts = self.core.scored_texts(self.heldout, self.given.documents)
        losses = [document_losses(networks, process, text, self.share, key) for key, text in enumerate(texts)]
        window = min(network.context for network in networks)
        core, small = (denoiser.flops(denoiser.backbone.block_size, window // 2) for denoiser in denoisers)
        return {
            "share": self.share,
            "flops": [core + small if self.share else core, small],
            "tokens": [sum(text.counted[: WINDOWS * window]) for text in texts],
            "losses": torch.stack(losses).numpy().round(3).tolist(),
        }

    def texts(self, pattern: str) -> Line:
        """Texts written under a schedule, what the judge finds, and the facts that are told under it."""
        core = tuple(1 - self.share if segment == HEAVY else 0.0 for segment in pattern)
        schedules = Segments(core), Segments(tuple(1 - weight for weight in core))
        members = [replace(member, schedule=one) for member, one in zip(self._members, schedules, strict=True)]
        writer, steps = writer_of(members, self.core), self.given.steps
        written = write(writer, self.requests, Options(max_tokens=WRITTEN, steps=steps, seed=0))
        return written | self.judged(written["texts"]) | {"facts": told(writer, self.facts, steps)}


def told(writer: Writer, facts: Sequence[Fact], steps: int | None) -> int | None:
    """How many facts the likeliest texts after their beginnings tell; None if there are none to tell."""
    if not facts:
        return None
    options = Options(max_tokens=16, steps=steps, seed=0, temperature=0)
    results = writer.generate_batch([Request(fact.prompt) for fact in facts], options)

    def plain(text: str) -> str:
        return " ".join(text.split()).casefold()

    return sum(plain(fact.answer) in plain(result.text) for result, fact in zip(results, facts, strict=True))


def work(given: Namespace, workshop: Workshop) -> None:
    """Train, measure and let write every core with a small model of every text."""
    general = [Corpus.of(*given.general)] if given.general else []
    data = [corpus.train for corpus in (*corpora_of(given), *general)]
    for core, corpus, seed in product(map(workshop.model, given.cores), [*general, *corpora_of(given)], given.seeds):
        name = f"{core.name}-{corpus.name}-{given.size}-{seed}"
        settings = TrainSettings(data=(corpus.train,), core=core.name, name=name, size=given.size, seed=seed)
        workshop.trained(replace(settings, **corpus.changes, **budget(given)))
        small = workshop.model(name)
        share = 0.0 if corpus in general else small.manifest.weight or UNTUNED
        pair = Pair(workshop, core, given, data, corpus.heldout, small, corpus.facts, share)
        asked = {"core": core.name, "corpus": corpus.name, "small": name, "seed": seed}
        workshop.piece(asked | {"piece": LEVELS}, pair.levels)
        workshop.piece(asked | {"piece": REAL}, pair.real)
        some = [schedule for heavy in COUNTS for schedule in shapes(heavy).values()]
        all_half = [] if given.quick or share else all_schedules(SEGMENTS // 2)
        for pattern in dict.fromkeys([HEAVY * SEGMENTS, LIGHT * SEGMENTS, *some, *all_half]):
            workshop.piece(asked | {"piece": pattern}, partial(pair.texts, pattern))


# The tables

Pieces = Mapping[str, Line]


def pieces_of(found: Sequence[Line]) -> dict[tuple[str, ...], Pieces]:
    """The pieces of each pair by its core, corpus and small model."""
    groups = grouped([line for line in found if "piece" in line], "core", "corpus", "small")
    return {names: {line["piece"]: line for line in group} for names, group in groups.items()}


def report(found: Sequence[Line]) -> str:
    """All tables of all pairs."""
    return "\n\n".join(_tables(names, pieces) for names, pieces in pieces_of(found).items())


def _tables(names: tuple[str, ...], found: Pieces) -> str:
    core, corpus, small = names
    share = found[LEVELS]["share"]
    documents, texts = len(found[LEVELS]["tokens"]), len(found[REAL]["nats"])
    real = mean(found[REAL]["nats"])
    return "\n\n".join(
        [
            f"## {core}, {corpus}",
            f"Heavy: {f'{core} with {small} at {share:g}' if share else core}; light: {small}.",
            f"Losses of {documents} held-out documents, nats per token; t falls from 1 to 0:",
            level_table(Levels.of(found[LEVELS]), bool(share)),
            "Denoising losses under schedules:",
            table(HEADER, [cells for _, cells in of_losses(found).rows()]),
            f"The judge's losses of {texts} texts of {WRITTEN} tokens; of what really follows {real:.4f}:",
            text_table(of_texts(found), found),
            agreement(found),
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
    """Losses under schedules, and the share of the heavy member's FLOPs that each saves."""

    columns: Columns
    schedules: Sequence[str]
    saved: Mapping[str, float]

    def by_cost(self) -> list[dict[str, Row]]:
        """The rows of each number of heavy segments, the most first."""
        return [compared(self.columns, self.schedules, heavy) for heavy in (SEGMENTS, *reversed(COUNTS), 0)]

    def rows(self) -> Iterator[tuple[Row, list[object]]]:
        """Each row with its cells, the most expensive first."""
        for rows in self.by_cost():
            for row in rows.values():
                loss, _ = self.columns.mean(row.sums)
                over = self.columns.mean(row.sums - rows[SANDWICH].sums) if SANDWICH in rows else (0.0, 0.0)
                cost = f"{100 * self.saved[row.schedules[0]]:.1f}%"
                more = signed(*over) if over[1] > 0 else ""
                yield row, [row.name, " and ".join(row.schedules), cost, f"{loss:.4f}", more, row.place]

    def curves(self, names: Sequence[str]) -> dict[str, list[Point]]:
        """Losses under schedules of these names over percents of FLOPs saved."""
        chosen = {name: [rows.get(name, next(iter(rows.values()))) for rows in self.by_cost()] for name in names}
        return {
            name: [(100 * self.saved[row.schedules[0]], self.columns.mean(row.sums)[0]) for row in rows]
            for name, rows in chosen.items()
        }


def of_losses(found: Pieces) -> Outcome:
    """Losses under all schedules; FLOPs are those of denoising steps in mid-window."""
    heavy, light = found[LEVELS]["flops"]
    schedules = [schedule for count in (0, *COUNTS, SEGMENTS) for schedule in all_schedules(count)]
    saved = {schedule: schedule.count(LIGHT) / SEGMENTS * (1 - light / heavy) for schedule in schedules}
    return Outcome(Levels.of(found[LEVELS]).by_schedule(schedules), schedules, saved)


def of_texts(found: Pieces) -> Outcome:
    """The judge's losses of the texts under the schedules that were written under."""
    schedules = [piece for piece in found if piece not in (LEVELS, REAL)]
    whole = found[HEAVY * SEGMENTS]["flops"]
    saved = {schedule: 1 - found[schedule]["flops"] / whole for schedule in schedules}
    return Outcome(Columns.by_text([found[schedule]["nats"] for schedule in schedules]), schedules, saved)


def text_table(outcome: Outcome, found: Pieces) -> str:
    """The judge's losses and other measures of the texts, in the mean where two schedules have one name."""
    measures = [name for name in MEASURES if found[HEAVY * SEGMENTS].get(name) is not None]
    rows = [
        [*cells, *(float(mean(found[schedule][name] for schedule in row.schedules)) for name in measures)]
        for row, cells in outcome.rows()
    ]
    return table([*HEADER, *measures], rows)


def agreement(found: Pieces) -> str:
    """Whether schedules of equal cost that lose less also write better, in one sentence."""
    losses, texts = of_losses(found), of_texts(found)
    half = [schedule for schedule in texts.schedules if schedule.count(HEAVY) == SEGMENTS // 2]
    sums = [[one.columns.sums[:, one.schedules.index(name)].sum() for name in half] for one in (losses, texts)]
    rho = np.corrcoef(np.argsort(np.argsort(sums, axis=1), axis=1).astype(float))[0, 1]
    return f"Rank correlation of the two losses over {len(half)} schedules that are half heavy: {rho:.2f}."


def plot(found: Sequence[Line], folder: Path) -> None:
    """Pictures of each pair of models."""
    for (core, corpus, _), pieces in pieces_of(found).items():
        draw_pair(pieces, folder / f"schedules-{core}-{corpus}", f"{core}, {corpus}")


def draw_pair(found: Pieces, stem: Path, title: str) -> None:
    """Three pictures: losses over the noise level, and losses and texts over the FLOPs saved."""
    levels = Levels.of(found[LEVELS])
    total = levels.tokens.sum()
    members = {"core": levels.core, "small": levels.small, "KL": levels.apart}
    by_level = {name: (sums.sum(0) / total)[::-1].tolist() for name, sums in members.items()}
    draw(charts.level_losses(by_level, f"Loss by noise level: {title}"), Path(f"{stem}-levels.svg"))
    axes = ("percent of FLOPs saved", "nats per token")
    losses = of_losses(found).curves((SANDWICH, BEST, WORST))
    draw(charts.curves(losses, f"Denoising loss: {title}", axes), Path(f"{stem}-losses.svg"))
    texts = of_texts(found).curves((SANDWICH, "heavy first", "heavy last"))
    draw(charts.curves(texts, f"Texts, by the judge: {title}", axes), Path(f"{stem}-texts.svg"))
