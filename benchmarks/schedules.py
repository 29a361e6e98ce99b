"""Which denoising steps need the large model? All half-heavy schedules by loss, and the best of them by text.

    python -m benchmarks schedules --pair third tech.heldout.jsonl.gz 0 --pair own til.heldout.jsonl.gz 0.4 --out FILE

After "Not all denoising steps are equal" (Sedykh, Sorokin and Malykh, 2026): the trajectory from noise to text has
SEGMENTS equal segments, in each of which either the heavy (H) or the light member (L) denoises, from t = 1 on. The core
and the light members are of the user's registry. Where a light member has a share of the weight, as a specialist
should, the heavy member is the core together with it, as in `--schedule sandwich`; else the core alone is heavy.

Denoising losses add up over noise levels, and what a level loses does not depend on what ran at others, so that each
member's loss in each segment gives the loss of every schedule. Texts have no such law: they are written under the TOP
half-heavy schedules of least loss and some named ones, and a causal core finds their exact likelihood.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import Line, Workshop, grouped
from benchmarks.lib.gaps import GapSettings, Viewer, choose_gaps, left_side, measure
from benchmarks.lib.models import Model
from benchmarks.lib.tables import mean, signed, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Options, Writer, choose
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.continuations import Continuation, continuations
from ssdcli.evaluation.generated import distinct_ngrams, words
from ssdcli.models.judge import Judge
from ssdcli.registry.store import SMOLLM2, STARTER

QUICK = {"documents": 8, "gaps": 1, "rows": 4, "top": 1}
SEGMENTS = 8
HEAVY, LIGHT, LEVELS, REAL = "HHHHHHHH", "LLLLLLLL", "levels", "the text itself"
NAMED = {
    HEAVY: "heavy alone",
    LIGHT: "light alone",
    "LLHHHHLL": "sandwich",
    "LLLLHHHH": "heavy last",
    "HHHHLLLL": "heavy first",
    "HHLLLLHH": "heavy at both ends",
    "LHHHHHHL": "sandwich:0.25",
    "LLHHHHHH": "heavy last, a quarter light",
    "HHHHHHLL": "heavy first, a quarter light",
}
WRITTEN = 48  # tokens of a text


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", default=STARTER, help="of the user's registry, masked")
    parser.add_argument(
        "--pair", nargs=3, action="append", default=[], metavar=("LIGHT", "HELDOUT", "SHARE"), dest="corpus"
    )
    parser.add_argument("--judge", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--documents", type=int, help="measure losses on the first so many held-out documents only")
    parser.add_argument("--gaps", type=int, default=6, help="blocks of a document that losses are measured on")
    parser.add_argument("--rows", type=int, default=64, help="texts under each schedule")
    parser.add_argument("--top", type=int, default=10, help="half-heavy schedules of least loss that write texts")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.9)


def work(given: Namespace, workshop: Workshop) -> None:
    """Measure the losses of each pair, and let it write."""
    judge = workshop.model(given.judge)
    for name, heldout, share in given.corpus:
        pair = Pair(workshop, workshop.model(given.core), workshop.model(name), judge, heldout, float(share), given)
        found = workshop.piece({"light": name, "piece": LEVELS}, pair.levels)
        workshop.piece({"light": name, "piece": REAL}, pair.real)
        best = sorted(half_heavy(), key=lambda schedule: float(losses_under(found, schedule).sum()))
        for schedule in dict.fromkeys([*NAMED, *best[: given.top]]):
            workshop.piece({"light": name, "piece": schedule}, partial(pair.texts, schedule))


def half_heavy() -> list[str]:
    """All schedules with as many heavy segments as light ones."""
    places = combinations(range(SEGMENTS), SEGMENTS // 2)
    return ["".join("H" if place in heavy else "L" for place in range(SEGMENTS)) for heavy in places]


@dataclass(frozen=True)
class Segments:
    """A member's weight in each of equal segments of the trajectory, the first at t = 1."""

    weights: tuple[float, ...]

    def __call__(self, t: float) -> float:
        """The weight of a step that begins at t."""
        return self.weights[min(int((1 - t) * len(self.weights) + 1e-9), len(self.weights) - 1)]


def divergence(combined: Combined, positions: Positions) -> Tensor:  # noqa: ARG001
    """KL from the first member's prediction to the second's: (N,)."""
    core, small = combined.log_ps
    return (core.exp() * (core - small).nan_to_num(0)).sum(-1)


# The work


@dataclass(frozen=True)
class Pair:
    """A core, a light member, held-out text, and the light member's weight where both run."""

    workshop: Workshop
    core: Model
    light: Model
    judge: Model
    heldout: str
    share: float
    given: Namespace

    def levels(self) -> Line:
        """Losses of the core, the light member, the heavy member, and the KL, by document and level from 0 to 1."""
        texts = self.core.scored_texts(self.heldout, self.given.documents)
        settings = GapSettings(self.core.manifest.block_size, self.core.manifest.block_size)
        settings = replace(settings, per_document=self.given.gaps, levels=SEGMENTS)
        weights = (1.0, 0.0), (0.0, 1.0), (1 - self.share, self.share)
        alone = [Combination(mix, (Constant(core), Constant(light))) for core, light in weights]
        ways = [*alone, Combination(mix, (Constant(0.5), Constant(0.5)), divergence)]
        viewers = [Viewer(model.denoiser, left_side) for model in (self.core, self.light)]
        found = measure(viewers, ways, choose_gaps(texts, settings), settings)
        sums = found.sums[..., ::-1].round(3).tolist()
        return {"share": self.share, "losses": sums, "tokens": found.tokens.tolist(), "levels": found.levels.tolist()}

    @cached_property
    def _continuations(self) -> list[Continuation]:
        return continuations(list(read_documents([self.heldout], ReadReport())), self.given.rows)

    @cached_property
    def _writer(self) -> Writer:
        return choose(self.core.name, {self.light.name: 0.5}, self.workshop.registry).open()

    def texts(self, schedule: str) -> Line:
        """Texts under a schedule, what they cost, and what the judge finds."""
        core = tuple(1 - self.share if segment == "H" else 0.0 for segment in schedule)
        schedules = Segments(core), Segments(tuple(1 - weight for weight in core))
        members = [replace(member, schedule=one) for member, one in zip(self._writer.members, schedules, strict=True)]
        options = Options(WRITTEN, seed=0, temperature=self.given.temperature, top_p=self.given.top_p, endless=True)
        began = processor_seconds()
        results = Writer(members, self.core.name).generate_batch([one.request for one in self._continuations], options)
        seconds = (processor_seconds() - began) / len(results)
        flops = mean(sum(use.flops for use in result.members) for result in results)
        return {"seconds": seconds, "flops": flops} | self._judged([result.text for result in results])

    def real(self) -> Line:
        """What the judge finds of the documents' own continuations, cut to the length of the written ones."""
        codec = self._writer.codec
        return self._judged([codec.decode(codec.encode(one.after)[:WRITTEN]) for one in self._continuations])

    @cached_property
    def _judge(self) -> Judge:
        backbone: Any = self.judge.backbone
        return Judge(backbone.model, self.judge.tokenizer)

    def _judged(self, texts: Sequence[str]) -> Line:
        readings = [self._judge.read(one.before, text) for one, text in zip(self._continuations, texts, strict=True)]
        return {
            "texts": texts,
            "nats": [round(reading.nats, 3) for reading in readings],
            "judged": [reading.tokens for reading in readings],
            "distinct-2": round(distinct_ngrams([words(text) for text in texts], 2), 4),
        }


# The tables


def losses_under(levels: Line, schedule: str) -> np.ndarray:
    """Each document's denoising loss under a schedule, in nats: the mean over the segments of what runs there."""
    by_member = np.array(levels["losses"])
    losses: np.ndarray = by_member[:, [2 if one == "H" else 1 for one in schedule], range(SEGMENTS)].mean(1)
    return losses


def report(found: Sequence[Line]) -> str:
    """All tables of all pairs."""
    groups = grouped(found, "light")
    return "\n\n".join(part for (name,), group in groups.items() for part in _tables(name, group))


def _tables(name: str, group: Sequence[Line]) -> Iterator[str]:
    pieces = {line["piece"]: line for line in group}
    levels = pieces[LEVELS]
    yield f"## {name}, at a weight of {levels['share']:g} beside the core where that is heavy"
    yield table(["t", "core", "light", "heavy", "light less heavy", "KL(core, light)"], _by_level(levels))
    names = ["schedule", "loss", "of 70", "over heavy", "FLOPs saved", "seconds", "seconds saved"]
    yield table([*names, "judged", "over heavy alone", "over the sandwich", "distinct-2"], _by_schedule(pieces))
    real = pieces[REAL]
    yield f"{len(real['nats'])} texts; their own continuations: {sum(real['nats']) / sum(real['judged']):.3f}."


def _by_level(levels: Line) -> Iterator[list[object]]:
    sums, tokens = np.array(levels["losses"]), np.array(levels["tokens"])
    for place in range(SEGMENTS):
        columns = Columns(sums[:, :, place], tokens)
        between = f"{1 - place / SEGMENTS:g} to {1 - (place + 1) / SEGMENTS:g}"
        means = [f"{columns.loss(k)[0]:.3f}" for k in range(3)]
        yield [between, *means, signed(*columns.gain(2, over=1)), f"{columns.loss(3)[0]:.3f}"]


def _by_schedule(pieces: Mapping[str, Line]) -> Iterator[list[object]]:
    """A row for each schedule that wrote texts, those of least loss first."""
    levels, whole, middle = pieces[LEVELS], pieces[HEAVY], pieces["LLHHHHLL"]
    tokens = np.array(levels["tokens"])
    order = sorted(half_heavy(), key=lambda one: float(losses_under(levels, one).sum()))
    written = sorted(set(pieces) - {LEVELS, REAL}, key=lambda one: float(losses_under(levels, one).sum()))
    for one in written:
        line, loss = pieces[one], losses_under(levels, one)
        columns = Columns(np.stack([loss, losses_under(levels, HEAVY)], 1), tokens)
        name = f"{NAMED[one]}, {one}" if one in NAMED else one
        rank = f"{order.index(one) + 1}" if one in order else ""
        saved = [f"{100 * (1 - line[what] / whole[what]):.1f}%" for what in ("flops", "seconds")]
        judged = f"{sum(line['nats']) / sum(line['judged']):.3f}"
        over = [_over(line, other) for other in (whole, middle)]
        costs = [saved[0], f"{line['seconds']:.3f}", saved[1]]
        first = [name, f"{columns.loss(0)[0]:.4f}", rank, signed(*columns.gain(1, over=0))]
        yield [*first, *costs, judged, *over, line["distinct-2"]]


def _over(line: Line, other: Line) -> str:
    """What the judge takes more of a text's tokens than under another schedule, the mean over the texts."""
    more = [
        nats / max(1, count) - nats0 / max(1, count0)
        for nats, count, nats0, count0 in zip(line["nats"], line["judged"], other["nats"], other["judged"], strict=True)
    ]
    return signed(float(np.mean(more)), float(np.std(more) / len(more) ** 0.5))
