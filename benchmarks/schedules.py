"""Which denoising steps need the large model? All schedules of a light and a heavy member at equal FLOPs.

    python -m benchmarks schedules --general TRAIN HELDOUT --corpus TRAIN HELDOUT --cores starter my-masked --out FILE
    python -m benchmarks schedules --table FILE --plot FOLDER

After "Not all denoising steps are equal" (Sedykh, Sorokin and Malykh, 2026): the way from noise to text has SEGMENTS
equal segments, and in each either the heavy or the light member denoises. The cores are those of the user's registry.
For each, a small model is trained on the general text, which should be the core's own, so that both sizes know the same
and the core is the heavy member, as in the paper; and one on each other corpus and the bundled notebook, where, as in
`--schedule sandwich`, the heavy member is the core and the small model at its tuned weight, and the light one the small
model alone.

The search by denoising loss is exhaustive and costs nothing: losses add up over the segments (see segments.py). Texts
have no such law, since a step begins where the one before it ended: they are written by schedules of some shapes, by
each member alone, and of general text by all schedules that are half heavy. A causal model that was trained on all of
the texts judges them. The best schedule is always chosen by one half of the documents and counted on the other, both
ways. Self-conditioning is off where losses are measured, and on where texts are written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lib.columns import Columns
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
from benchmarks.lib.tables import table
from benchmarks.lib.writing import (
    MEASURES,
    WRITTEN,
    Beginnings,
    add_judge,
    beginnings,
    borrowed,
    by_text,
    draw,
    facts_told,
    judge_of,
    judged,
    scheduled,
    write,
    writer_of,
)
from ssdcli.api import Options, choose
from ssdcli.engine.ensemble.members import Member
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.generation.selection import UNTUNED
from ssdcli.models.judge import Judge
from ssdcli.registry.store import STARTER, Entry
from ssdcli.reports import charts
from ssdcli.training.settings import TrainSettings

COUNTS = (2, 4, 6)  # heavy segments of the schedules that are compared
BEST, WORST = "best", "worst"
LEVELS, REAL = "levels", "the text itself"
QUICK_STEPS = 60
SCHEDULE_HEADER = ["schedule", "segments from t = 1 on", "FLOPs saved", "nats per token", "over the sandwich", "place"]


def main() -> None:
    """Do what is missing, then print the tables."""
    given = arguments()
    path = given.table
    if path is None:
        workshop = Workshop(given)
        for pair in pairs(workshop, given):
            work(workshop, pair, given)
        path = workshop.out
    groups = grouped(path)
    print("\n\n".join([heading(lines(path)), *(report(*group) for group in groups.items())]))
    if given.plot is not None:
        for (core, corpus, _), found in groups.items():
            plot(found, given.plot / f"schedules-{core}-{corpus}", f"{core}, {corpus}")


def arguments() -> argparse.Namespace:
    """What is asked for; a quick run has few documents, texts and steps."""
    parser = parser_of(__doc__)
    parser.add_argument("--general", nargs=2, metavar=("TRAIN", "HELDOUT"), help="the cores' own text")
    parser.add_argument("--cores", nargs="+", default=[STARTER], help="cores of the user's registry")
    parser.add_argument("--size", default="nano", help="of the small models")
    parser.add_argument("--rows", type=int, default=64, help="texts under each schedule")
    parser.add_argument("--steps", type=int, help="a block, by default the noise process's own")
    add_judge(parser)
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the tables' figures, too")
    given = parser.parse_args()
    if given.quick:
        given.documents, given.rows, given.steps = 8, 8, SEGMENTS
    return given


# The work


@dataclass(frozen=True)
class Pair:
    """A core, a small model made for it on a corpus, and the latter's weight where both run; 0: the core runs alone."""

    core: Entry
    small: Entry
    corpus: Corpus
    share: float
    seed: int

    def schedules(self, pattern: str) -> tuple[Segments, Segments]:
        """When the core and the small model run."""
        core = tuple(1 - self.share if segment == HEAVY else 0.0 for segment in pattern)
        return Segments(core), Segments(tuple(1 - weight for weight in core))


class Bench:
    """Measures a pair and lets it write; models are loaded, and the judge is trained, when they are first needed."""

    def __init__(self, pair: Pair, workshop: Workshop, arguments: argparse.Namespace) -> None:
        """Nothing is done yet."""
        self._pair = pair
        self._workshop = workshop
        self._given = arguments
        self._tokenizer = tokenizer_of(pair.core)

    @cached_property
    def _members(self) -> tuple[Member[LoadedModel], ...]:
        pair = self._pair
        return choose(pair.core.name, {pair.small.name: 0.5}, self._workshop.registry).open().members

    @cached_property
    def _found(self) -> Beginnings:
        return beginnings(self._pair.corpus.heldout, self._pair.core, self._given.rows)

    @cached_property
    def _judge(self) -> Judge:
        data = [corpus.train for corpus in (*corpora_of(self._given), *general_of(self._given))]
        return judge_of(self._workshop, self._pair.core, data, self._given)

    def levels(self) -> dict[str, Any]:
        """The losses by segment, and the FLOPs of a step of the heavy and the light member in mid-window."""
        denoisers = [member.model.denoiser for member in self._members]
        members, share = [denoiser.backbone for denoiser in denoisers], self._pair.share
        passages = passages_of(self._tokenizer, self._pair.corpus.heldout, self._given.documents)
        process = denoisers[0].process
        losses = [document_losses(members, process, passage, share, key) for key, passage in enumerate(passages)]
        window = min(member.context for member in members)
        core, small = (denoiser.flops(denoiser.backbone.block_size, window // 2) for denoiser in denoisers)
        return {
            "share": share,
            "flops": [core + small if share else core, small],
            "tokens": [sum(passage.counted[: WINDOWS * window]) for passage in passages],
            "losses": torch.stack(losses).numpy().round(3).tolist(),
        }

    def texts(self, pattern: str) -> dict[str, Any]:
        """Texts written under a schedule, with what the judge says, and the facts that are told by it."""
        writer = writer_of(scheduled(self._members, self._pair.schedules(pattern)), self._pair.core)
        options = Options(max_tokens=WRITTEN, steps=self._given.steps, seed=0)
        written = write(writer, self._found.requests, options)
        facts = facts_told(writer, self._pair.corpus.facts, self._given.steps)
        return written | judged(self._judge, written["texts"], self._found) | {"facts": facts}

    def real(self) -> dict[str, Any]:
        """What the judge says of how the texts really go on."""
        return judged(self._judge, self._found.endings, self._found)


def general_of(given: argparse.Namespace) -> list[Corpus]:
    """The general text, where it is named."""
    return [Corpus.of(*given.general)] if given.general else []


def pairs(workshop: Workshop, given: argparse.Namespace) -> Iterator[Pair]:
    """Every core with a small model of every text, trained where there is none."""
    general = general_of(given)
    for core in (borrowed(workshop, name) for name in given.cores):
        for corpus, seed in product([*general, *corpora_of(given)], given.seeds):
            name = f"{core.name}-{corpus.name}-{given.size}-{seed}"
            budget = {"steps": QUICK_STEPS} if given.quick else {"minutes": given.minutes}
            settings = TrainSettings(data=(corpus.train,), core=core.name, name=name, size=given.size, seed=seed)
            workshop.trained(replace(settings, **corpus.changes, **budget))
            small = workshop.registry.find(name)
            yield Pair(core, small, corpus, 0.0 if corpus in general else small.manifest.weight or UNTUNED, seed)


def work(workshop: Workshop, pair: Pair, given: argparse.Namespace) -> None:
    """Measure a pair, then write under all schedules that are asked for."""
    bench = Bench(pair, workshop, given)
    names = {"core": pair.core.name, "corpus": pair.corpus.name, "small": pair.small.name}
    asked = names | {"seed": pair.seed}
    workshop.piece(asked | {"piece": LEVELS}, bench.levels)
    workshop.piece(asked | {"piece": REAL}, bench.real)
    some = [schedule for heavy in COUNTS for schedule in shapes(heavy).values()]
    all_half = [] if given.quick or pair.share else all_schedules(SEGMENTS // 2)
    for pattern in dict.fromkeys([HEAVY * SEGMENTS, LIGHT * SEGMENTS, *some, *all_half]):
        workshop.piece(asked | {"piece": pattern}, partial(bench.texts, pattern))


# The tables


def grouped(path: Path) -> dict[tuple[str, str, str], dict[str, Line]]:
    """The pieces of each pair by its core, corpus and small model."""
    groups: dict[tuple[str, str, str], dict[str, Line]] = {}
    for line in lines(path):
        if "piece" in line:
            groups.setdefault((line["core"], line["corpus"], line["small"]), {})[line["piece"]] = line
    return groups


def report(names: tuple[str, str, str], found: Mapping[str, Line]) -> str:
    """All tables of a pair."""
    core, corpus, small = names
    share = found[LEVELS]["share"]
    heavy = f"{core} with {small} at {share:g}" if share else core
    documents, rows = len(found[LEVELS]["tokens"]), len(found[REAL]["nats"])
    real = float(np.mean(found[REAL]["nats"]))
    return "\n\n".join(
        [
            f"## {core}, {corpus}",
            f"Heavy: {heavy}; light: {small}.",
            f"Losses of {documents} held-out documents, nats per token; t falls from 1 to 0:",
            level_table(Levels.of(found[LEVELS]), bool(share)),
            "Denoising losses under schedules:",
            table(SCHEDULE_HEADER, [cells for _, cells in of_losses(found).rows()]),
            f"{rows} texts of {WRITTEN} tokens as the judge finds them; it gives what really follows {real:.4f}:",
            text_table(of_texts(found), found),
            agreement(found),
        ]
    )


def level_table(levels: Levels, together: bool) -> str:
    """The losses by segment."""
    names = ["core", "small", *(["together"] if together else [])]
    rows: list[list[object]] = []
    for place in range(SEGMENTS):
        columns = Columns(
            np.stack([levels.core, levels.small, levels.heavy, levels.apart], -1)[:, place], levels.tokens
        )
        means = [f"{columns.mean(columns.sums[:, k])[0]:.4f}" for k in range(len(names))]
        gap = columns.mean(columns.sums[:, 1] - columns.sums[:, 2])
        apart = columns.mean(columns.sums[:, 3])
        between = f"{1 - place / SEGMENTS:g} to {1 - (place + 1) / SEGMENTS:g}"
        rows.append([between, *means, *(f"{mean:.4f} ± {error:.4f}" for mean, error in (gap, apart))])
    return table(["t", *names, "light less heavy", "KL(core, small)"], rows)


@dataclass(frozen=True)
class Row:
    """Schedules under one name, their place among those that cost the same, and each document's loss under them."""

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

    def rows(self) -> Iterator[tuple[Row, list[object]]]:
        """Each row with its cells, the most expensive first."""
        for heavy in (SEGMENTS, *reversed(COUNTS), 0):
            rows = compared(self.columns, self.schedules, heavy)
            for row in rows.values():
                mean, _ = self.columns.mean(row.sums)
                over = self.columns.mean(row.sums - rows[SANDWICH].sums) if SANDWICH in rows else (0.0, 0.0)
                more = f"{over[0]:+.4f} ± {over[1]:.4f}" if over[1] > 0 else ""
                cost = f"{100 * self.saved[row.schedules[0]]:.1f}%"
                yield row, [row.name, " and ".join(row.schedules), cost, f"{mean:.4f}", more, row.place]

    def curves(self, names: Sequence[str]) -> dict[str, list[charts.Point]]:
        """Losses under schedules of these names, from none to all of the heavy member, over percents of FLOPs saved."""
        costs = [compared(self.columns, self.schedules, heavy) for heavy in (SEGMENTS, *reversed(COUNTS), 0)]
        chosen = {name: [rows.get(name, next(iter(rows.values()))) for rows in costs] for name in names}
        return {
            name: [(100 * self.saved[row.schedules[0]], self.columns.mean(row.sums)[0]) for row in rows]
            for name, rows in chosen.items()
        }


def of_losses(found: Mapping[str, Line]) -> Outcome:
    """Losses under all schedules; FLOPs are those of denoising steps in mid-window."""
    heavy, light = found[LEVELS]["flops"]
    schedules = [schedule for count in (0, *COUNTS, SEGMENTS) for schedule in all_schedules(count)]
    saved = {schedule: schedule.count(LIGHT) / SEGMENTS * (1 - light / heavy) for schedule in schedules}
    return Outcome(Levels.of(found[LEVELS]).by_schedule(schedules), schedules, saved)


def of_texts(found: Mapping[str, Line]) -> Outcome:
    """What the judge says of the texts under the schedules that wrote."""
    schedules = [piece for piece in found if piece not in (LEVELS, REAL)]
    whole = found[HEAVY * SEGMENTS]["flops"]
    saved = {schedule: 1 - found[schedule]["flops"] / whole for schedule in schedules}
    return Outcome(by_text([found[schedule]["nats"] for schedule in schedules]), schedules, saved)


def text_table(outcome: Outcome, found: Mapping[str, Line]) -> str:
    """The judge's losses and what else there is to say of the texts, in the mean where two schedules have one name."""
    measures = [name for name in MEASURES if found[HEAVY * SEGMENTS].get(name) is not None]
    rows = [
        [*cells, *(float(np.mean([found[schedule][name] for schedule in row.schedules])) for name in measures)]
        for row, cells in outcome.rows()
    ]
    return table([*SCHEDULE_HEADER, *measures], rows)


def agreement(found: Mapping[str, Line]) -> str:
    """Whether schedules that cost the same and lose less also write better, in one sentence."""
    texts = of_texts(found)
    half = [schedule for schedule in texts.schedules if schedule.count(HEAVY) == SEGMENTS // 2]
    ranks = [
        np.argsort(np.argsort([outcome.columns.sums[:, outcome.schedules.index(one)].sum() for one in half]))
        for outcome in (of_losses(found), texts)
    ]
    rho = np.corrcoef(*ranks)[0, 1]
    return f"Rank correlation of the two losses over {len(half)} schedules that are half heavy: {rho:.2f}."


def plot(found: Mapping[str, Line], stem: Path, title: str) -> None:
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


if __name__ == "__main__":
    main()
