"""Which settings, and which beginnings, train the best small model? Twins at equal time or steps, on held-out text.

    python -m benchmarks training TRAIN HELDOUT --minutes 3 --seeds 0 1 2 --variants muon adamw --out FILE
    python -m benchmarks training TRAIN HELDOUT --general GENERAL --variants twin-shift --set steps=300 --out FILE
    python -m benchmarks training --table FILE

Every training is `ssd train-small` itself, for the bundled core, but its clock counts the processor's seconds of this
process, divided by the number of threads. Variants that begin from a twin continue a causal model of the core's shape,
which is trained on GENERAL first, with and without its logit shift. Losses are denoising losses in nats per token: of
the small model alone, and with the core at the best weight; and alone at the noisiest tenth of the levels, where little
but the text before a block is known: there, processes that destroy text in different ways can be compared.
"""

from __future__ import annotations

import ast
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.lib.causal import Twin, save_for_transformers, train_causal, twin_of
from benchmarks.lib.experiment import Line, Workshop, add_files, grouped, run
from benchmarks.lib.tables import spread, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.errors import UsageError
from ssdcli.evaluation.losses import GRID, LossSettings, best_weight, measure
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
    "to-the-end": {"patience": 0},
    "like-core": {},  # and the core's shape, see `settings_of`
    "from-core": {"init": STARTER},
    "lora-16": {"init": STARTER, "lora": 16},
    "twin-shift": {"shift": True},  # and the twin to begin from
    "twin-no-shift": {"shift": False},
    "nano": {"size": "nano"},
    "micro": {"size": "micro"},
    "mini": {"size": "mini"},
    "process-simplex": {"core": NO_CORE, "block_size": 16, "process": "simplex"},
    "process-masked": {"core": NO_CORE, "block_size": 16, "process": "masked"},
    "process-uniform": {"core": NO_CORE, "block_size": 16, "process": "uniform"},
}
COLUMNS = ("steps", "kept", "alone", "error", "noisiest", "bits", "both", "weight")
QUICK = {"set": ["steps=20", "size=nano"], "documents": 8}


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", nargs="*", help="training text, then held-out text")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["default"], metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all variants get")
    parser.add_argument("--general", help="text that a causal twin learns from")
    parser.add_argument("--twin-steps", type=int, default=1000)
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents only")
    add_files(parser)


def main(given: Namespace) -> None:
    """Train what is missing, and print the table."""
    if given.table is None and len(given.data) != 2:
        raise UsageError("training and held-out text are missing.", "Name both, or a --table.")
    run(given, partial(work, given), report)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each variant and seed."""
    for seed, variant in product(given.seeds, given.variants):
        name = " ".join([variant, *given.set])
        asked = {"corpus": Path(given.data[0]).name, "minutes": given.minutes, "variant": name, "seed": seed}
        workshop.piece(asked, partial(measured, workshop, settings_of(workshop, variant, seed, given), given))


def settings_of(workshop: Workshop, variant: str, seed: int, given: Namespace) -> TrainSettings:
    """The settings of a variant, whose beginning is made where it is missing."""
    changes = dict(map(parsed, given.set)) | dict(VARIANTS[variant])
    config = load_backbone(workshop.model(STARTER).folder).config
    if variant == "like-core":
        changes |= {"hidden": config.hidden, "layers": config.layers, "context": config.context}
    if variant.startswith("twin-"):
        changes |= {"init": str(twin(workshop, seed, given)), "context": config.context}
    minutes = None if "steps" in changes else given.minutes
    name = f"{variant}-{seed}".lower()
    return replace(TrainSettings(data=(given.data[0],), name=name, minutes=minutes, seed=seed), **changes)


def parsed(pair: str) -> tuple[str, Any]:
    """A setting and its value: a number, a truth value or None where it looks like one, else text."""
    name, _, value = pair.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def twin(workshop: Workshop, seed: int, given: Namespace) -> Path:
    """The folder of a causal model of the core's shape, in transformers' format."""
    if given.general is None:
        raise UsageError("there is no text for the causal twin.", "Name some with --general.")
    folder, core = workshop.home / f"causal-twin-{seed}", workshop.model(STARTER)
    if not (folder / "tokenizer.json").exists():
        tokenizer = core.folder / "tokenizer.json"
        settings = TrainSettings(data=(given.general,), steps=given.twin_steps, seed=seed)
        begin = Twin(twin_of(load_backbone(core.folder).config), tokenizer)
        made = train_causal(settings, begin, folder.with_suffix(".native"), processor_seconds)
        print(f"the causal twin: {made.heldout:.3f} nats per token of its own held-out text", flush=True)
        save_for_transformers(made.model, tokenizer, folder)
    return folder


def measured(workshop: Workshop, settings: TrainSettings, given: Namespace) -> Line:
    """One training, and the trained model's losses alone and with its core."""
    made = workshop.trained(settings)
    small = workshop.model(settings.name)
    cores = [] if settings.core == NO_CORE else [workshop.model(settings.core)]
    networks = [model.backbone for model in (*cores, small)]
    window = LossSettings(min(network.context for network in networks))
    weights = GRID if cores else [1.0]
    losses = measure(networks, small.process, small.scored_texts(given.data[1], given.documents), weights, window)
    best = best_weight(losses) if cores else 1.0
    nats = losses.nats_per_token()
    return {
        "size": made["size"],
        "steps": made["steps"],
        "kept": made["kept"] or made["steps"],
        "alone": round(float(nats[-1]), 4),
        "error": round(float(losses.standard_error()[-1]), 4),
        "bits": round(float(losses.bits_per_byte()[-1]), 4),
        "both": round(float(nats[losses.place(best)]), 4),
        "weight": best,
        "noisiest": round(float(losses.nats_by_level()[-1, -1]), 4),
    }


def report(found: Sequence[Line]) -> str:
    """A row for each corpus, budget and variant: means over the seeds, and the spread where there are several."""
    rows = [
        [*name, group[0]["size"] or "", len(group), *(spread(line[column] for line in group) for column in COLUMNS)]
        for name, group in grouped(found, "corpus", "minutes", "variant").items()
    ]
    return table(["corpus", "minutes", "variant", "size", "seeds", *COLUMNS], rows)
