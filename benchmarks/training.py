"""Which settings, and which beginnings, train the best small model? Twins at equal time or steps, on held-out text.

    python -m benchmarks training TRAIN HELDOUT --minutes 3 --seeds 0 1 2 --variants muon adamw --out FILE
    python -m benchmarks training TRAIN HELDOUT --variants no-gaps default gaps-50 --gaps 2 --out FILE
    python -m benchmarks training --table FILE

Every training is `ssd train-small` itself, for the bundled core, on the bundled notebook if no text is named, but its
clock counts the processor's seconds of this process, divided by the number of threads. Variants with a teacher also
learn from the core's predictions. Losses are denoising losses in nats per token: of the small model alone, with its
gain over the first variant, paired by document, and with the core at the best weight; and alone at the noisiest tenth
of the levels, where little but the text before a block is known: there, processes that destroy text in different ways
can be compared. With --gaps, models also fill gaps in held-out documents and are shown more or less of what follows.
"""

from __future__ import annotations

import ast
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus
from benchmarks.lib.experiment import Line, Workshop, grouped
from benchmarks.lib.gaps import GapSettings, View, both_sides, choose_gaps, left_side, measure_gaps
from benchmarks.lib.models import Model
from benchmarks.lib.tables import signed, spread, table
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.evaluation.losses import GRID, LossSettings, best_weight, measure
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3},
    "half-rate": {"learning_rate": 1.5e-3},
    "double-rate": {"learning_rate": 6e-3},
    "batch-512": {"batch_tokens": 512},
    "batch-1024": {"batch_tokens": 1024},
    "batch-2048": {"batch_tokens": 2048},
    "no-gaps": {"gap_share": 0.0},
    "gaps-50": {"gap_share": 0.5},
    "teacher": {"distill": STARTER, "distill_weight": 0.3},
    "teacher-in-context": {"distill": STARTER, "distill_weight": 0.3, "distill_context": True},
    "to-the-end": {"patience": 0},
    "like-core": {},  # and the core's shape, see `settings_of`
    "from-core": {"init": STARTER},
    "lora-16": {"init": STARTER, "lora": 16},
    "nano": {"size": "nano"},
    "micro": {"size": "micro"},
    "mini": {"size": "mini"},
    "process-simplex": {"core": NO_CORE, "block_size": 16, "process": "simplex"},
    "process-masked": {"core": NO_CORE, "block_size": 16, "process": "masked"},
    "process-uniform": {"core": NO_CORE, "block_size": 16, "process": "uniform"},
}
COLUMNS = ("steps", "kept", "alone", "error", "noisiest", "bits", "both", "weight")
QUICK = {
    "set": ["steps=20", "size=nano", "context=128"],
    "variants": ["default", "teacher", "no-gaps"],
    "documents": 8,
    "gaps": 1,
}
_NEAR = 16  # tokens of the right side of a gap that are shown
_HIGH = 0.4  # the noise levels above it are also shown by themselves


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", nargs="*", help="training text, then held-out text; the bundled notebook if none")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["default"], metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all variants get")
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents only")
    parser.add_argument("--gaps", type=int, default=0, help="gaps of each document to measure, too")


def check(given: Namespace) -> None:
    """UsageError for arguments that leave nothing to measure."""
    if len(given.data) not in (0, 2):
        raise UsageError("training or held-out text is missing.", "Name both, or none for the bundled notebook.")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each variant and seed."""
    corpus = Corpus.of(*given.data) if given.data else Corpus.notebook()
    for seed, variant in product(given.seeds, given.variants):
        name = " ".join([variant, *given.set])
        asked = {"corpus": corpus.name, "minutes": given.minutes, "variant": name, "seed": seed}
        settings = settings_of(workshop, corpus, variant, seed, given)
        workshop.piece(asked, partial(measured, workshop, corpus, settings, given))


def settings_of(workshop: Workshop, corpus: Corpus, variant: str, seed: int, given: Namespace) -> TrainSettings:
    """The settings of a variant."""
    changes = dict(corpus.changes) | dict(map(parsed, given.set)) | dict(VARIANTS[variant])
    config = load_backbone(workshop.model(STARTER).folder).config
    if variant == "like-core":
        changes |= {"hidden": config.hidden, "layers": config.layers, "context": config.context}
    minutes = None if "steps" in changes else given.minutes
    name = f"{variant}-{seed}".lower()
    settings = TrainSettings(data=(corpus.train,), core=STARTER, name=name, minutes=minutes, seed=seed)
    return replace(settings, **changes)


def parsed(pair: str) -> tuple[str, Any]:
    """A setting and its value: a number, a truth value or None where it looks like one, else text."""
    name, _, value = pair.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def measured(workshop: Workshop, corpus: Corpus, settings: TrainSettings, given: Namespace) -> Line:
    """One training, and the trained model's losses alone and with its core."""
    made = workshop.trained(settings)
    small = workshop.model(settings.name)
    cores = [] if settings.core == NO_CORE else [workshop.model(settings.core)]
    networks = [model.backbone for model in (*cores, small)]
    window = LossSettings(min(network.context for network in networks))
    weights = GRID if cores else [1.0]
    scored_texts = small.scored_texts(corpus.heldout, given.documents)
    losses = measure(networks, small.process, scored_texts, weights, window)
    best = best_weight(losses) if cores else 1.0
    nats = losses.nats_per_token()
    return {
        "size": made["size"],
        "steps": made["steps"],
        "kept": made["kept"] or made["steps"],
        "alone": round(float(nats[-1]), 4),
        "error": round(Columns.of(losses).loss(-1)[1], 4),
        "bits": round(float(losses.bits_per_byte()[-1]), 4),
        "both": round(float(nats[losses.place(best)]), 4),
        "weight": best,
        "noisiest": round(float(losses.nats_by_level()[-1, -1]), 4),
        "sums": losses.sums[:, -1].round(3).tolist(),
        "tokens": losses.tokens.tolist(),
        "gaps": [gaps_of(small, scored_texts, text, given.gaps) for text in (_NEAR, _NEAR // 2) if given.gaps],
    }


# Gaps


def views_of(end: int) -> dict[str, View]:
    """What is shown of a gap, by name; the others are compared with the first."""
    return {
        "left side alone": left_side,
        "both sides": both_sides,
        f"both sides, {_NEAR} tokens of the right one": lambda gap: Prompt(
            gap.before, gap.after[:_NEAR], len(gap.canvas)
        ),
        "right side put before the left one": lambda gap: Prompt([end, *gap.after, end, *gap.before]),
    }


def gaps_of(model: Model, scored_texts: Sequence[ScoredText], text: int, count: int) -> Line:
    """A model's losses of gaps with so many tokens of text, by what it is shown, at all noise levels and high ones."""
    settings = GapSettings(model.manifest.block_size, text, per_document=count)
    views = views_of(model.end)
    losses = measure_gaps(model.denoiser, choose_gaps(scored_texts, settings), list(views.values()), settings)
    parts = losses.columns(), losses.columns(above=_HIGH)
    return {
        "text": text,
        "shown": {
            name: [cell for part in parts for cell in (part.loss(place)[0], signed(*part.gain(place, over=0)))]
            for place, name in enumerate(views)
        },
    }


# The tables


def report(found: Sequence[Line]) -> str:
    """A row for each corpus, budget and variant: means over the seeds, and the spread where there are several."""
    groups = grouped(found, "corpus", "minutes", "variant")
    order = list(
        dict.fromkeys((line["corpus"], line["minutes"], line["variant"]) for line in found if "variant" in line)
    )
    rows = []
    for name in order:
        group, first = groups[name], groups[next(other for other in order if other[:2] == name[:2])]
        gain = "" if group is first else _gain(group, first)
        means = (spread(line[column] for line in group) for column in COLUMNS)
        rows.append([*name, group[0]["size"] or "", len(group), *means, gain])
    header = ["corpus", "minutes", "variant", "size", "seeds", *COLUMNS, "gain over the first"]
    return "\n\n".join([table(header, rows), *(_gap_tables(name, groups[name][0]) for name in order)])


def _gain(group: Sequence[Line], first: Sequence[Line]) -> str:
    """What the first seed's model loses less than the first variant's, paired by document."""
    own, other = (
        Columns(np.array(lines[0]["sums"])[:, None], np.array(lines[0]["tokens"])) for lines in (group, first)
    )
    return signed(*Columns.side_by_side([own, other]).gain(0, over=1))


def _gap_tables(name: tuple[Any, ...], line: Line) -> str:
    header = ["shown", "loss", "gain", f"loss above t = {_HIGH}", "gain"]
    return "\n\n".join(
        f"{name[0]}, {name[2]}, gaps with {gaps['text']} tokens of text\n\n"
        + table(header, [[shown, *cells] for shown, cells in gaps["shown"].items()])
        for gaps in line["gaps"]
    )
