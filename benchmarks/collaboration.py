"""Does the ensemble predict held-out text better than each of its members, and how small can the small one be?

    python -m benchmarks collaboration --corpus TRAIN HELDOUT --general GENERAL --minutes 10 --out FILE
    python -m benchmarks collaboration --table FILE

Trains small models for a core, on the bundled notebook and the given corpora, whose bodies have 1/3, 1/10, 1/30 and
1/100 of the parameters of the core's body (`--ratios`); a small model keeps as many dimensions of the embeddings as it
is wide, and is counted with and without them. Members combine by mix and average with their default schedules, and by
contrast; the small one with and without private context: the note most like the text before (BM25 over the training
text). A contrast subtracts the small model without the context; where there is none, another small model of the same
shape and minutes that has read general text, so that such rows need `--general`.

Losses are denoising losses in nats per token of blocks of held-out documents, on the same noised canvases for all, with
self-conditioning off. A weight is chosen on one half of the documents for the other; gains are over the better member,
paired by document.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product

import torch

from benchmarks.lib.columns import collaborate
from benchmarks.lib.corpora import Corpus, corpora_of, own_text
from benchmarks.lib.experiment import Line, Workshop, add_arguments, gain_of, grouped, weights_of
from benchmarks.lib.gaps import combined, steady
from benchmarks.lib.models import Model
from benchmarks.lib.retrieval import SHOWN, add_notes, gaps_of
from benchmarks.lib.tables import mean, table
from ssdcli.engine.ensemble.rules import Rule, average, contrast, mix
from ssdcli.engine.ensemble.schedules import sharing
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.losses import GRID
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

QUICK = {"minutes": 0.2, "ratios": [10.0], "documents": 8, "repeats": 2, "general": list(own_text())}
CORE, SMALL, BASE = "core", "small", "base"
MEMBERS = (CORE, SMALL, SMALL + SHOWN)
_STEP = 32  # between widths
_NEAR = 0.15  # distance from the wanted number of parameters, in logarithms, below which proportions decide


@dataclass(frozen=True)
class Way:
    """A rule over the core and another member; base: the member that a contrast subtracts."""

    rule: str
    member: str
    base: str | None = None

    @property
    def weights(self) -> Sequence[float]:
        """The weights that are tried."""
        return GRID[1:-1] if self.base is None else (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)

    def combination(self, viewers: Iterable[str], weight: float, process: str) -> Combination:
        """The rule at a weight."""
        if self.base is not None:
            return steady(viewers, {CORE: 1.0, self.member: weight, self.base: -weight}, contrast)
        schedules = dict(zip((CORE, self.member), sharing(weight, process), strict=True))
        return combined(viewers, schedules, _RULES[self.rule])


_RULES: Mapping[str, Rule] = {"mix": mix, "average": average}
WAYS = (
    Way("mix", SMALL),
    Way("average", SMALL),
    Way("contrast", SMALL, BASE),
    Way("mix", SMALL + SHOWN),
    Way("average", SMALL + SHOWN),
    Way("contrast", SMALL + SHOWN, SMALL),
)


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    add_notes(parser, repeats=4)
    parser.add_argument("--core", default=STARTER, help="the core of the models that are trained")
    parser.add_argument("--ratios", type=float, nargs="+", default=[3, 10, 30, 100], help="the core's body to theirs")
    parser.add_argument("--general", nargs="+", default=[], help="text for the base of contrasts without context")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus, ratio and seed."""
    for seed, corpus, ratio in product(given.seeds, corpora_of(given), given.ratios):
        asked = {"corpus": corpus.name, "ratio": ratio, "seed": seed, "minutes": given.minutes}
        workshop.piece(asked, partial(measured, workshop, corpus, ratio, seed, given))


# Sizes


@dataclass(frozen=True)
class Size:
    """A shape, and the parameters of its body and of everything, embeddings included."""

    hidden: int
    layers: int
    body: int
    everything: int


def size_of(config: BackboneConfig, hidden: int, layers: int) -> Size:
    """The size of a small model of this shape for a core of such a configuration; nothing is allocated."""
    with torch.device("meta"):
        model = BlockDiffusionLM(replace(config, hidden=hidden, layers=layers, rank=hidden))
    everything = sum(weight.numel() for weight in model.parameters())
    return Size(hidden, layers, everything - model.table.numel(), everything)


def shape_for(config: BackboneConfig, ratio: float) -> Size:
    """The shape, no wider than the core, whose body has the nearest to a `ratio`th of the core's body's parameters.

    Of those that are near enough, it is the one whose width and depth are most like the core's in proportion.
    """
    wanted = size_of(config, config.hidden, config.layers).body / ratio
    widths, depths = range(_STEP, config.hidden + 1, _STEP), range(1, 2 * config.layers + 1)
    sizes = [size for hidden in widths for size in _of_width(config, hidden, depths)]

    def misses(size: Size) -> tuple[float, float]:
        off = abs(math.log(size.body / wanted))
        proportion = size.hidden / size.layers / (config.hidden / config.layers)
        return max(off, _NEAR), abs(math.log(proportion))

    return min(sizes, key=misses)


def _of_width(config: BackboneConfig, hidden: int, depths: Sequence[int]) -> Iterator[Size]:
    """The sizes of a width at all depths: every layer has the same number of parameters."""
    one, two = (size_of(config, hidden, layers) for layers in (1, 2))
    for layers in depths:
        more = (layers - 1) * (two.body - one.body)
        yield Size(hidden, layers, one.body + more, one.everything + more)


# The work


def measured(workshop: Workshop, corpus: Corpus, ratio: float, seed: int, given: Namespace) -> Line:
    """Train small models of a size, and measure what each way gains."""
    config = load_backbone(workshop.model(given.core).folder).config
    size = shape_for(config, ratio)
    models = trained(workshop, corpus, size, seed, given)
    viewers, measure = gaps_of(models, (SMALL,), corpus, given)
    ways = [way for way in WAYS if way.base is None or way.base in viewers]
    process = models[CORE].process.name
    mixtures = [[way.combination(viewers, weight, process) for weight in way.weights] for way in ways]
    columns = measure(
        [*(steady(viewers, {name: 1.0}) for name in MEMBERS), *(one for group in mixtures for one in group)]
    )
    first, judged = len(MEMBERS), []
    for way in ways:
        places = range(first, first + len(way.weights))
        found, chosen = collaborate(columns, 0, MEMBERS.index(way.member), places)
        weights = [way.weights[place - first] for place in chosen]
        judged.append({"rule": way.rule, "context": way.member != SMALL, **asdict(found), "weights": weights})
        first = places.stop
    core = size_of(config, config.hidden, config.layers)
    return {"size": asdict(size), "of": asdict(core), "ways": judged}


def trained(workshop: Workshop, corpus: Corpus, size: Size, seed: int, given: Namespace) -> dict[str, Model]:
    """The core, a small model, and where there is general text, its base."""
    core, shape = workshop.model(given.core), f"{size.hidden}x{size.layers}-{seed}"
    settings = TrainSettings(core=core.name, hidden=size.hidden, layers=size.layers, minutes=given.minutes, seed=seed)
    settings = replace(settings, context=core.manifest.context)
    names = {SMALL: f"{corpus.name}-{shape}"}
    if given.general:
        names[BASE] = f"general-{shape}"
        workshop.trained(replace(settings, data=tuple(given.general), name=names[BASE]))
    workshop.trained(replace(settings, data=(corpus.train,), name=names[SMALL], **corpus.changes))
    return {CORE: core} | {member: workshop.model(name) for member, name in names.items()}


# The tables


def report(found: Sequence[Line]) -> str:
    """The sizes, then means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups = grouped(found, "corpus", "ratio")
    header = ["corpus", "size", "rule", "private context", "core", "small", "both", "weights", "gain over the better"]
    rows = [row for name, group in groups.items() for row in _rows(group, *name)]
    sizes = _sizes({ratio: group[0] for (_, ratio), group in groups.items()})
    return f"{sizes}\n\n{table([*header, 'seeds'], rows)}"


def _sizes(by_ratio: Mapping[float, Line]) -> str:
    rows: list[list[object]] = []
    for ratio, line in by_ratio.items():
        size, core = Size(**line["size"]), Size(**line["of"])
        shares = size.body / core.body, size.everything / core.everything
        shape = f"{size.hidden} x {size.layers}"
        rows.append([f"1/{ratio:g}", shape, size.body, shares[0], size.everything, shares[1]])
    return table(["wanted", "width x layers", "parameters", "share", "with embeddings", "share"], rows)


def _rows(group: Sequence[Line], corpus: str, ratio: float) -> Iterator[list[object]]:
    for place, way in enumerate(group[0]["ways"]):
        parts = [line["ways"][place] for line in group]
        losses = [f"{mean(part[column] for part in parts):.4f}" for column in ("core", "small", "both")]
        context = "yes" if way["context"] else "no"
        yield [corpus, f"1/{ratio:g}", way["rule"], context, *losses, weights_of(parts), gain_of(parts), len(parts)]
