"""Does the ensemble predict held-out text better than each of its members? Prints tables in Markdown.

    python -m benchmarks collaboration --corpus TRAIN HELDOUT --general GENERAL --minutes 10 --out FILE
    python -m benchmarks collaboration --table FILE

Small models are trained for a core, on the bundled notebook and on the corpora that are named, whose bodies have 1/3,
1/10, 1/30 and 1/100 of the core's body's parameters (`--ratios`); of the embeddings, a small model keeps as many
dimensions as it is wide, and is counted with and without them. Members combine by mix and average, as they do by
default, and by contrast, the small one with and without private context: the note most like the text before (BM25 over
the training text). What a contrast holds against the small model is the small model without the context; where there is
none, it is another small model of the same shape and minutes that has read general text, so that such rows need
`--general`. Losses are denoising losses, in nats per token, of blocks of held-out documents, on the same noised
canvases for all, with self-conditioning off. A weight is chosen on one half of the documents for the other; gains are
over the better member, paired by document. Minutes are the processor's, divided by the number of threads. Trained
models and results are kept beside `--out`, and a run can be interrupted and taken up again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from benchmarks.lib.blends import Blend, Voice, alone, measure_blends, shared, steady
from benchmarks.lib.columns import Columns, collaborate
from benchmarks.lib.corpora import read_texts
from benchmarks.lib.experiment import (
    Corpus,
    Line,
    Workshop,
    corpora_of,
    heading,
    lines,
    own_text,
    parser_of,
    passages_of,
    tokenizer_of,
)
from benchmarks.lib.retrieval import Shelf
from benchmarks.lib.tables import table
from benchmarks.lib.writing import borrowed
from ssdcli.engine.ensemble.rules import Rule, average, contrast, mix
from ssdcli.evaluation.gaps import GapSettings, choose_gaps, left_side
from ssdcli.evaluation.sweep import GRID
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

WEIGHTS = GRID[1:-1]
STRENGTHS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # of a contrast
_STEP = 32  # between widths
_NEAR = 0.15  # how far from the wanted number of parameters, in logarithms, is near enough to choose by proportion
_QUICK = {"minutes": 0.2, "ratios": [10.0], "documents": 8, "repeats": 2}

CORE, SMALL, SHOWN, BASE = "core", "small", "small, shown a note", "base"


@dataclass(frozen=True)
class Way:
    """A rule over the core and another voice, and for a contrast, what that one is held against."""

    rule: str
    voice: str
    against: str | None = None

    @property
    def weights(self) -> Sequence[float]:
        """The weights that are tried."""
        return WEIGHTS if self.against is None else STRENGTHS

    def blend(self, weight: float, process: str) -> Blend:
        """The rule at a weight."""
        if self.against is None:
            return shared((CORE, self.voice), weight, process, _RULES[self.rule])
        return steady({CORE: 1.0, self.voice: weight, self.against: -weight}, contrast)


_RULES: Mapping[str, Rule] = {"mix": mix, "average": average}
WAYS = (
    Way("mix", SMALL),
    Way("average", SMALL),
    Way("contrast", SMALL, BASE),
    Way("mix", SHOWN),
    Way("average", SHOWN),
    Way("contrast", SHOWN, SMALL),
)


@dataclass(frozen=True)
class Size:
    """A shape, with the parameters of its body and with all, embeddings counted in."""

    hidden: int
    layers: int
    body: int
    everything: int


def main() -> None:
    """Train what is missing, measure what was not yet, and print the tables."""
    arguments = _arguments()
    if arguments.table is not None:
        print(report(lines(arguments.table)))
    else:
        workshop = Workshop(arguments)
        borrowed(workshop, arguments.core)
        for seed in arguments.seeds:
            for corpus in corpora_of(arguments):
                for ratio in arguments.ratios:
                    _measure_trained(workshop, arguments, corpus, ratio, seed)
        print(report(lines(workshop.out)))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--core", default=STARTER, help="the core of the models that are trained")
    parser.add_argument("--ratios", type=float, nargs="+", default=[3, 10, 30, 100], help="the core's body to theirs")
    parser.add_argument("--general", nargs="+", default=[], help="text for the base of contrasts without context")
    parser.add_argument("--note", type=int, default=96, help="tokens of a note that are shown, at most")
    parser.add_argument("--repeats", type=int, default=4, help="blocks of a document that are measured")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(_QUICK, general=list(own_text()))
    return arguments


def size_of(config: BackboneConfig, hidden: int, layers: int) -> Size:
    """The size of a small model of this shape for a core of such a configuration; nothing is allocated."""
    with torch.device("meta"):
        model = BlockDiffusionLM(replace(config, hidden=hidden, layers=layers, rank=hidden))
    everything = sum(weight.numel() for weight in model.parameters())
    return Size(hidden, layers, everything - model.table.numel(), everything)


def shape_for(config: BackboneConfig, ratio: float) -> Size:
    """The shape, no wider than the core, whose body has nearest to a `ratio`th of the parameters of the core's.

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
    """The sizes of a width at all depths: every layer has as many parameters."""
    one, two = (size_of(config, hidden, layers) for layers in (1, 2))
    layer = two.body - one.body
    for layers in depths:
        more = (layers - 1) * layer
        yield Size(hidden, layers, one.body + more, one.everything + more)


def _measure_trained(
    workshop: Workshop, arguments: argparse.Namespace, corpus: Corpus, ratio: float, seed: int
) -> None:
    asked = {"corpus": corpus.name, "ratio": ratio, "seed": seed, "minutes": arguments.minutes}

    def made() -> Line:
        core = load_backbone(workshop.registry.find(arguments.core).folder).config
        size = shape_for(core, ratio)
        names = _train(workshop, arguments, corpus, size, seed)
        judged = _judge(workshop, arguments, corpus, names)
        return {"size": asdict(size), "of": asdict(size_of(core, core.hidden, core.layers)), "ways": judged}

    workshop.piece(asked, made)


def _train(workshop: Workshop, arguments: argparse.Namespace, corpus: Corpus, size: Size, seed: int) -> dict[str, str]:
    """The names of the voices' models: the core, a small one, and where there is general text, its base."""
    shape = f"{size.hidden}x{size.layers}-{seed}"
    common = TrainSettings(
        core=arguments.core,
        hidden=size.hidden,
        layers=size.layers,
        context=workshop.registry.find(arguments.core).manifest.context,
        minutes=arguments.minutes,
        seed=seed,
    )
    names = {CORE: arguments.core, SMALL: f"{corpus.name}-{shape}"}
    if arguments.general:
        names[BASE] = f"general-{shape}"
        workshop.trained(replace(common, data=tuple(arguments.general), name=names[BASE]))
    workshop.trained(replace(common, data=(corpus.train,), name=names[SMALL], **corpus.changes))
    return names


def _judge(workshop: Workshop, arguments: argparse.Namespace, corpus: Corpus, names: Mapping[str, str]) -> list[Line]:
    """What each way gains on a corpus."""
    denoisers = {voice: workshop.denoiser(name) for voice, name in names.items()}
    tokenizer = tokenizer_of(workshop.registry.find(names[CORE]))
    room = min(denoiser.room for denoiser in denoisers.values())
    shelf = Shelf.of(read_texts(Path(corpus.train)), tokenizer, arguments.note, room)
    voices = {voice: Voice(denoiser, left_side) for voice, denoiser in denoisers.items()}
    voices[SHOWN] = Voice(denoisers[SMALL], shelf.view())
    block, process = denoisers[CORE].backbone.block_size, denoisers[CORE].process.name
    settings = GapSettings(block, block, left=room, per_document=arguments.repeats)
    gaps = choose_gaps(passages_of(tokenizer, corpus.heldout, arguments.documents), settings)
    ways = [way for way in WAYS if way.against is None or way.against in voices]
    members = [CORE, SMALL, SHOWN]
    blends = [*map(alone, members), *(way.blend(weight, process) for way in ways for weight in way.weights)]
    columns = measure_blends(voices, blends, gaps, settings)
    return list(_judged(columns, ways, members))


def _judged(columns: Columns, ways: Sequence[Way], members: Sequence[str]) -> Iterator[Line]:
    """A line for each way, whose columns come one after the other behind the members'."""
    first = len(members)
    for way in ways:
        places = range(first, first + len(way.weights))
        found, chosen = collaborate(columns, members.index(CORE), members.index(way.voice), places)
        weights = [way.weights[place - first] for place in chosen]
        yield {"rule": way.rule, "context": way.voice == SHOWN, **asdict(found), "weights": weights}
        first = places.stop


# Tables


def report(found: Sequence[Line]) -> str:
    """The sizes, then means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups: dict[tuple[str, float], list[Line]] = {}
    for line in found:
        if "ratio" in line:
            groups.setdefault((line["corpus"], line["ratio"]), []).append(line)
    header = ["corpus", "size", "rule", "private context", "core", "small", "both", "weights", "gain over the better"]
    rows = [row for name, group in sorted(groups.items()) for row in _rows(*name, group)]
    sizes = _sizes({ratio: group[0] for (_, ratio), group in sorted(groups.items())})
    return f"{heading(found)}\n\n{sizes}\n\n{table([*header, '±', 'seeds'], rows)}"


def _sizes(by_ratio: Mapping[float, Line]) -> str:
    header = ["wanted", "width x layers", "parameters", "share", "with embeddings", "share"]
    rows: list[list[object]] = []
    for ratio, line in by_ratio.items():
        size, core = Size(**line["size"]), Size(**line["of"])
        shares = size.body / core.body, size.everything / core.everything
        shape = f"{size.hidden} x {size.layers}"
        rows.append([f"1/{ratio:g}", shape, size.body, shares[0], size.everything, shares[1]])
    return table(header, rows)


def _rows(corpus: str, ratio: float, group: Sequence[Line]) -> Iterator[list[object]]:
    for place, way in enumerate(group[0]["ways"]):
        parts = [line["ways"][place] for line in group]
        means = {
            column: sum(part[column] for part in parts) / len(parts)
            for column in ("core", "small", "both", "gain", "error")
        }
        losses = (f"{means[column]:.4f}" for column in ("core", "small", "both"))
        weights = " ".join(sorted({f"{weight:g}" for part in parts for weight in part["weights"]}))
        gain = (f"{means['gain']:+.4f}", f"{means['error']:.4f}")
        yield [
            corpus,
            f"1/{ratio:g}",
            way["rule"],
            "yes" if way["context"] else "no",
            *losses,
            weights,
            *gain,
            len(parts),
        ]


if __name__ == "__main__":
    main()
