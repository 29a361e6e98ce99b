"""How many denoising steps does a text need? Quality and time from 4 to 1,000 steps a block.

    python -m benchmarks steps --corpus TRAIN HELDOUT --models starter my-masked --out FILE
    python -m benchmarks steps --table FILE --plot FOLDER

Models of the user's registry continue the beginnings of held-out documents, with and without self-conditioning and an
early stop; a causal model that was trained on TRAIN judges what they wrote. TRAIN should be the models' own text;
without it the bundled notebook takes its place. All ways of writing use the same seeds, so that an early stop changes
nothing before it comes. Each way is compared with another, text by text: with an early stop, with the same number of
steps without one; else with the most steps. Agreement is the share of words in the same place of the two texts that are
the same. Steps and seconds are those of a text on one processor, where `ssd generate` writes eight at once.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product, zip_longest
from pathlib import Path

from torch import Tensor

from benchmarks.lib.charts import curves_over_doublings
from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import corpora_of
from benchmarks.lib.experiment import Line, Workshop, add_arguments, grouped
from benchmarks.lib.tables import mean, table
from benchmarks.lib.writing import WRITTEN, Bench, add_judge, draw, write, writer_of
from ssdcli.api import Options, choose
from ssdcli.engine.denoiser import Denoiser, Prefix
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.process import Canvas
from ssdcli.evaluation.generated import words
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.registry.store import STARTER

QUICK = {"steps": (4, 8, 32), "rows": 8}
REAL = "the text itself"
FIGURES = ("distinct-2", "repetition", "steps", "seconds")


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    parser.add_argument("--models", nargs="+", default=[STARTER], help="of the user's registry")
    steps = (4, 8, 16, 32, 64, 128, 256, 512, 1000)
    parser.add_argument("--steps", type=int, nargs="+", default=steps, help="a block")
    parser.add_argument("--stops", type=float, nargs="+", default=[0.1], help="entropies below which a text stops")
    parser.add_argument("--rows", type=int, default=32, help="texts in each way")
    parser.add_argument("--temperature", type=float, default=Options.temperature)
    parser.add_argument("--top-p", type=float, default=Options.top_p)
    add_judge(parser)


# The work


class Unconditioned(Denoiser):
    """A denoiser without self-conditioning."""

    def denoise(self, canvas: Canvas, t: float, previous: Tensor | None, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32."""
        del previous
        return super().denoise(canvas, t, None, prefixes)


@dataclass(frozen=True)
class Writing(Bench):
    """A model that writes."""

    @cached_property
    def _member(self) -> Member[LoadedModel]:
        (member,) = choose(self.core.name, registry=self.workshop.registry).open().members
        return member

    def texts(self, conditioned: bool, options: Options) -> Line:
        """Texts written in one way, and what the judge finds."""
        model = self._member.model
        if not conditioned:
            model = replace(model, denoiser=Unconditioned(model.denoiser.backbone, model.denoiser.process))
        written = write(writer_of([self._member.carrying(model)], self.core), self.requests, options)
        return written | self.judged(written["texts"])


def work(given: Namespace, workshop: Workshop) -> None:
    """Let each model write in every way; those that are not self-conditioned write in half of them."""
    corpus = corpora_of(given)[-1]
    for model in map(workshop.model, given.models):
        bench = Writing(workshop, model, given, [corpus.train], corpus.heldout)
        conditionings = (True, False) if model.process.self_conditioned else (False,)
        workshop.piece({"model": model.name, "way": REAL}, bench.real)
        for seed, steps, conditioned, stop in product(given.seeds, given.steps, conditionings, (0.0, *given.stops)):
            first = seed * given.rows
            options = Options(WRITTEN, steps, given.temperature, given.top_p, seed=first, early_stop=stop)
            asked = {"model": model.name, "seed": seed, "steps a block": steps, "self-conditioned": conditioned}
            workshop.piece(asked | {"stop": stop}, partial(bench.texts, conditioned, options))


# The tables


@dataclass(frozen=True)
class Way:
    """A way of writing: steps a block, whether with self-conditioning, and the entropy that stops a text."""

    steps: int
    conditioned: bool
    stop: float


@dataclass(frozen=True)
class Written:
    """What was written in one way with all seeds: texts, the judge's nats per token of each, and means of figures."""

    texts: Sequence[str]
    nats: Sequence[float]
    figures: Mapping[str, float]


Ways = Mapping[Way, Written]


def ways_of(found: Sequence[Line]) -> Ways:
    """The results of a model by way: with self-conditioning first, without an early stop first."""
    groups = grouped(found, "self-conditioned", "stop", "steps a block")
    ordered = sorted(groups.items(), key=lambda item: not item[0][0])  # sorting is stable
    return {
        Way(steps, conditioned, stop): Written(
            [text for line in group for text in line["texts"]],
            [nats for line in group for nats in line["nats"]],
            {name: mean(line[name] for line in group) for name in FIGURES},
        )
        for (conditioned, stop, steps), group in ordered
    }


def report(found: Sequence[Line]) -> str:
    """A table for each model."""
    return "\n\n".join(_table(name, group) for (name,), group in grouped(found, "model").items())


def _table(model: str, found: Sequence[Line]) -> str:
    ways = ways_of(found)
    (real,) = (line for line in found if line.get("way") == REAL)
    own = [REAL, "", "", f"{math.exp(mean(real['nats'])):,.0f}", "", "", *(real.get(name, "") for name in FIGURES)]
    title = f"{len(real['nats'])} texts of {WRITTEN} tokens from each seed."
    header = ["steps a block", "self-conditioning", "early stop", "perplexity", "nats over", "agreement", *FIGURES]
    return f"## {model}\n\n{title}\n\n{table(header, [own, *(cells(way, ways) for way in ways)])}"


def cells(way: Way, ways: Ways) -> list[object]:
    """A row of the table."""
    own, other = ways[way], reference(way, ways)
    columns = Columns.by_text([own.nats, ways[other].nats])
    more, error = columns.gain(1, over=0)
    over, same = ("", "") if other == way else (f"{more:+.3f} ± {error:.3f}", agreement(own.texts, ways[other].texts))
    conditioned, stop = "on" if way.conditioned else "off", f"{way.stop:g}" if way.stop else "off"
    figures = (own.figures[name] for name in FIGURES)
    return [f"{way.steps}", conditioned, stop, f"{math.exp(mean(own.nats)):,.0f}", over, same, *figures]


def reference(way: Way, ways: Ways) -> Way:
    """What a way is compared with: an early stop with none, everything else with the most steps."""
    alike = [other.steps for other in ways if replace(other, steps=way.steps) == way]
    return replace(way, stop=0.0) if way.stop else replace(way, steps=max(alike))


def agreement(texts: Sequence[str], others: Sequence[str]) -> float:
    """The share of words in the same place that are the same."""
    pairs = [pair for one, other in zip(texts, others, strict=True) for pair in zip_longest(words(one), words(other))]
    return mean(one == other for one, other in pairs) if pairs else 0.0


def plot(found: Sequence[Line], folder: Path) -> None:
    """A picture of each model."""
    for (name,), group in grouped(found, "model").items():
        draw(picture(name, ways_of(group)), folder / f"steps-{name}.svg")


def picture(model: str, ways: Ways) -> ET.Element:
    """The judge's loss over the steps, by way."""
    best, stop = any(way.conditioned for way in ways), max(way.stop for way in ways)
    named = {
        "as it is": [way for way in ways if way.conditioned == best and not way.stop],
        "early stop": [way for way in ways if way.conditioned == best and way.stop == stop],
        "without self-conditioning": [way for way in ways if best and not way.conditioned and not way.stop],
    }
    points = {name: [(way.steps, mean(ways[way].nats)) for way in chosen] for name, chosen in named.items()}
    return curves_over_doublings(points, f"Texts, by the judge: {model}", ("steps a block", "nats per token"))
