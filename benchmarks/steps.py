"""How many denoising steps does a text need? Quality and time from 4 to 1,000 steps a block.

    python -m benchmarks steps --corpus TRAIN HELDOUT --models starter my-masked --out FILE
    python -m benchmarks steps --table FILE --plot FOLDER

Models of the user's registry go on from the beginnings of held-out documents, with and without self-conditioning, and
with and without an early stop, and a causal model that was trained on TRAIN reads what they wrote. TRAIN should be the
models' own text; without it the bundled notebook takes its place. The same seeds are used for all, so that an early
stop changes nothing before it comes. Each way is compared with another, text by text: with an early stop, with as many
steps without one, and without, with the most steps. Agreement is the share of words in the same place of the two texts
that are the same. Steps and seconds are those of a text, on one processor, where `ssd generate` writes eight at once.
"""

from __future__ import annotations

import argparse
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.lib.experiment import Corpus, Line, Workshop, heading, lines, parser_of, process_of
from benchmarks.lib.tables import table
from benchmarks.lib.writing import (
    WRITTEN,
    Beginnings,
    add_judge,
    beginnings,
    borrowed,
    by_text,
    draw,
    judge_of,
    judged,
    write,
    writer_of,
)
from ssdcli.api import Options, choose
from ssdcli.engine.denoiser import Denoiser, Prefix
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.process import Canvas
from ssdcli.evaluation.generated import words
from ssdcli.generation.loaded_model import LoadedModel
from ssdcli.models.judge import Judge
from ssdcli.registry.store import STARTER, Entry
from ssdcli.reports import charts

STEPS = (4, 8, 16, 32, 64, 128, 256, 512, 1000)  # a block
QUICK_STEPS = (4, 8, 32)
REAL = "the text itself"
FIGURES = ("distinct-2", "repetition", "steps", "seconds")
HEADER = ["steps a block", "self-conditioning", "early stop", "perplexity", "nats over", "agreement", *FIGURES]


def main() -> None:
    """Write what is missing, then print the tables."""
    given = arguments()
    path = given.table
    if path is None:
        workshop = Workshop(given)
        for name in given.models:
            work(workshop, borrowed(workshop, name), given)
        path = workshop.out
    found = by_model(lines(path))
    print("\n\n".join([heading(lines(path)), *(report(name, group) for name, group in found.items())]))
    if given.plot is not None:
        for name, group in found.items():
            draw(picture(name, ways_of(group)), given.plot / f"steps-{name}.svg")


def arguments() -> argparse.Namespace:
    """What is asked for; a quick run takes few steps for few texts."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=[STARTER], help="of the user's registry")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="a block")
    parser.add_argument("--stops", type=float, nargs="+", default=[0.1], help="entropies below which a text stops")
    parser.add_argument("--rows", type=int, default=32, help="texts in each way")
    parser.add_argument("--temperature", type=float, default=Options.temperature)
    parser.add_argument("--top-p", type=float, default=Options.top_p)
    add_judge(parser)
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the tables' figures, too")
    given = parser.parse_args()
    if given.quick:
        given.steps, given.rows = QUICK_STEPS, 8
    return given


# The work


class Unconditioned(Denoiser):
    """A denoiser that is not told the previous prediction."""

    def denoise(self, canvas: Canvas, t: float, previous: Tensor | None, prefixes: tuple[Prefix, ...]) -> Tensor:
        """Log p of the clean tokens: (B, L, V) float32."""
        del previous
        return super().denoise(canvas, t, None, prefixes)


class Bench:
    """Lets a model write; it is loaded, and the judge is trained, when they are first needed."""

    def __init__(self, model: Entry, workshop: Workshop, given: argparse.Namespace) -> None:
        """Nothing is done yet."""
        self._model = model
        self._workshop = workshop
        self._given = given
        self._corpus = Corpus.of(*given.corpus[-1]) if given.corpus else Corpus.notebook()

    @cached_property
    def _member(self) -> Member[LoadedModel]:
        (member,) = choose(self._model.name, registry=self._workshop.registry).open().members
        return member

    @cached_property
    def _found(self) -> Beginnings:
        return beginnings(self._corpus.heldout, self._model, self._given.rows)

    @cached_property
    def _judge(self) -> Judge:
        return judge_of(self._workshop, self._model, [self._corpus.train], self._given)

    def texts(self, conditioned: bool, options: Options) -> dict[str, Any]:
        """Texts written in one way, with what the judge says."""
        loaded = self._member.model
        own = loaded.denoiser
        model = loaded if conditioned else replace(loaded, denoiser=Unconditioned(own.backbone, own.process))
        written = write(writer_of([self._member.carrying(model)], self._model), self._found.requests, options)
        return written | judged(self._judge, written["texts"], self._found)

    def real(self) -> dict[str, Any]:
        """What the judge says of how the texts really go on."""
        return judged(self._judge, self._found.endings, self._found)


def work(workshop: Workshop, model: Entry, given: argparse.Namespace) -> None:
    """Let a model write in every way; one without self-conditioning writes in half of them."""
    bench = Bench(model, workshop, given)
    conditioning = (True, False) if process_of(model).self_conditioned else (False,)
    workshop.piece({"model": model.name, "way": REAL}, bench.real)
    for seed, steps, conditioned, stop in product(given.seeds, given.steps, conditioning, (0.0, *given.stops)):
        options = Options(WRITTEN, steps, given.temperature, given.top_p, seed=seed * given.rows, early_stop=stop)
        asked = {
            "model": model.name,
            "seed": seed,
            "steps a block": steps,
            "self-conditioned": conditioned,
            "stop": stop,
        }
        workshop.piece(asked, partial(bench.texts, conditioned, options))


# The tables


@dataclass(frozen=True)
class Way:
    """A way of writing: steps a block, whether it is self-conditioned, and the entropy that stops a text."""

    steps: int
    conditioned: bool
    stop: float


@dataclass(frozen=True)
class Written:
    """What was written in one way, with all seeds: texts, the judge's nats per token of each, and means of figures."""

    texts: Sequence[str]
    nats: Sequence[float]
    figures: Mapping[str, float]


Ways = Mapping[Way, Written]


def by_model(found: Sequence[Line]) -> dict[str, list[Line]]:
    """The results of each model."""
    models = dict.fromkeys(line["model"] for line in found if "model" in line)
    return {model: [line for line in found if line.get("model") == model] for model in models}


def ways_of(found: Sequence[Line]) -> Ways:
    """The results of a model by way."""
    groups: dict[Way, list[Line]] = {}
    for line in found:
        if "steps a block" in line:
            groups.setdefault(Way(line["steps a block"], line["self-conditioned"], line["stop"]), []).append(line)
    return {
        way: Written(
            [text for line in group for text in line["texts"]],
            [nats for line in group for nats in line["nats"]],
            {name: float(np.mean([line[name] for line in group])) for name in FIGURES},
        )
        for way, group in sorted(
            groups.items(), key=lambda item: (not item[0].conditioned, item[0].stop, item[0].steps)
        )
    }


def report(model: str, found: Sequence[Line]) -> str:
    """The table of a model."""
    ways = ways_of(found)
    (real,) = (line for line in found if line.get("way") == REAL)
    perplexity = math.exp(float(np.mean(real["nats"])))
    rows: list[list[object]] = [
        [REAL, "", "", f"{perplexity:,.0f}", "", "", *(real.get(name, "") for name in FIGURES)],
        *(cells(way, ways) for way in ways),
    ]
    title = f"{len(real['nats'])} texts of {WRITTEN} tokens from each seed."
    return f"## {model}\n\n{title}\n\n{table(HEADER, rows)}"


def cells(way: Way, ways: Ways) -> list[object]:
    """A row of the table."""
    own = ways[way]
    conditioned, stop = "on" if way.conditioned else "off", f"{way.stop:g}" if way.stop else "off"
    other = reference(way, ways)
    columns = by_text([own.nats, ways[other].nats])
    more, error = columns.mean(columns.sums[:, 0] - columns.sums[:, 1])
    over, same = ("", "") if other == way else (f"{more:+.3f} ± {error:.3f}", agreement(own.texts, ways[other].texts))
    perplexity = math.exp(float(np.mean(own.nats)))
    return [
        f"{way.steps}",
        conditioned,
        stop,
        f"{perplexity:,.0f}",
        over,
        same,
        *(own.figures[name] for name in FIGURES),
    ]


def reference(way: Way, ways: Ways) -> Way:
    """What a way is compared with: an early stop with none, and that with the most steps."""
    alike = [other.steps for other in ways if replace(other, steps=way.steps) == way]
    return replace(way, stop=0.0) if way.stop else replace(way, steps=max(alike))


def agreement(texts: Sequence[str], others: Sequence[str]) -> float:
    """The share of words in the same place that are the same."""
    pairs = [pair for one, other in zip(texts, others, strict=True) for pair in zip_longest(words(one), words(other))]
    return sum(one == other for one, other in pairs) / max(1, len(pairs))


def picture(model: str, ways: Ways) -> ET.Element:
    """The judge's loss over the steps, by way."""
    stop = max(way.stop for way in ways)
    named = {
        "as it is": [way for way in ways if way.conditioned == conditioning(ways) and not way.stop],
        "early stop": [way for way in ways if way.conditioned == conditioning(ways) and way.stop == stop],
        "without self-conditioning": [
            way for way in ways if conditioning(ways) and not way.conditioned and not way.stop
        ],
    }
    points = {name: [(way.steps, float(np.mean(ways[way].nats))) for way in chosen] for name, chosen in named.items()}
    return charts.curves_over_doublings(points, f"Texts, by the judge: {model}", ("steps a block", "nats per token"))


def conditioning(ways: Ways) -> bool:
    """Whether the model can hear itself."""
    return any(way.conditioned for way in ways)


if __name__ == "__main__":
    main()
