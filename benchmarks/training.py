"""Which settings train the best small model in the time there is: twins at equal time, measured on held-out text.

    python -m benchmarks training TRAIN HELDOUT --minutes 3 --seeds 0 1 2 --variants muon adamw --out FILE
    python -m benchmarks training --table FILE

Every training is `ssd train-small` itself, for the bundled core, but its clock counts the processor's seconds of this
process, divided by the number of threads: other work on the machine slows the run down and takes no steps from it.
One JSON line is appended for each training, and trainings whose line is there already are left out, so that a run can
be interrupted and taken up again. Losses are denoising losses, alone and with the core at the best weight;
and alone at the noisiest tenth of levels, where little but the text before a block is known: processes that destroy
text in different ways can be compared there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.lib.corpora import read_texts
from benchmarks.lib.experiment import lines
from benchmarks.lib.tables import machine, spread, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.engine.process import make_process
from ssdcli.evaluation.losses import LossesByLevel, LossSettings, measure, passage_of
from ssdcli.evaluation.sweep import GRID, best_weight
from ssdcli.machine.placement import Placement
from ssdcli.models.loading import load_model
from ssdcli.registry.adapters import base_of
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.job import train_small
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
    "from-core": {"init": "starter"},
    "lora-16": {"init": "starter", "lora": 16},
    "nano": {"size": "nano"},
    "micro": {"size": "micro"},
    "mini": {"size": "mini"},
    "process-simplex": {"core": "none", "block_size": 16, "process": "simplex"},
    "process-masked": {"core": "none", "block_size": 16, "process": "masked"},
    "process-uniform": {"core": "none", "block_size": 16, "process": "uniform"},
}


def main() -> None:
    """Train what is asked for and missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path, help="training text, then held-out text")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=["default"], help=", ".join(VARIANTS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all variants get")
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents alone")
    parser.add_argument("--out", type=Path, default=Path("training.jsonl"))
    parser.add_argument("--table", type=Path, help="only print the table of this file")
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(report(arguments.table))
        return
    shared = dict(parsed(pair) for pair in arguments.set)
    done = {key(line) for line in lines(arguments.out)}
    for seed in arguments.seeds:
        for variant in arguments.variants:
            name = " ".join([variant, *arguments.set])
            asked = {"corpus": arguments.data[0].name, "minutes": arguments.minutes, "variant": name, "seed": seed}
            if key(asked) not in done:
                changes = {**shared, **VARIANTS[variant], "seed": seed, "minutes": arguments.minutes}
                result = asked | run(*arguments.data, arguments.documents, changes)
                with arguments.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps(result), flush=True)
    print(report(arguments.out))


def run(train: Path, heldout: Path, documents: int | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """One training, and its losses on so many documents of the held-out file, all by default."""
    settings = replace(TrainSettings(data=(str(train),), name="twin"), **changes)
    with tempfile.TemporaryDirectory() as home:
        registry = Registry(Path(home))
        trained = train_small(settings, registry=registry, clock=processor_seconds)
        losses = measured(registry, settings.core, read_texts(heldout, documents))
    best = best_weight(losses) if len(losses.weights) > 1 else 1.0
    nats, bits = losses.nats_per_token(), losses.bits_per_byte()
    return {
        "size": trained.description.size,
        "steps": trained.description.steps,
        "kept": trained.description.kept,
        "alone": round(float(nats[-1]), 4),
        "bits": round(float(bits[-1]), 4),
        "both": round(float(nats[losses.place(best)]), 4),
        "weight": best,
        "noisiest": round(float(losses.nats_by_level()[-1, -1]), 4),
        "core": round(float(nats[0]), 4),
    }


def measured(registry: Registry, core: str, texts: list[str]) -> LossesByLevel:
    """Losses of the twin on texts, alone or with its core at every weight."""
    entry = registry.find("twin")
    tokenizer = Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    passages = [passage_of(text, tokenizer, end) for text in texts]
    base = base_of(entry, registry)
    weights = entry if base is None else base
    model = load_model(weights.folder, Placement(), entry.manifest.block_size, None if base is None else entry.folder)
    process = make_process(entry.manifest.process, entry.manifest.vocabulary, entry.manifest.constants)
    if core == "none":
        return measure([model], process, passages, [1.0], LossSettings(model.context))
    members = [load_model(registry.find(core).folder, Placement(), model.block_size), model]
    return measure(members, process, passages, GRID, LossSettings(min(member.context for member in members)))


def parsed(pair: str) -> tuple[str, Any]:
    """A setting and its value, in the type of its default where that says it."""
    name, _, value = pair.partition("=")
    default = next(field.default for field in fields(TrainSettings) if field.name == name)
    kind = type(default) if isinstance(default, int | float) else str
    return name, kind(value)


def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two results those of the same training."""
    return line["corpus"], line["minutes"], line["variant"], line["seed"]


def report(path: Path) -> str:
    """A row for each corpus, budget and variant: means over the seeds, and the spread where there are several."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines(path):
        groups.setdefault(key(line)[:3], []).append(line)
    rows = [
        [*name, group[0]["size"], len(group), *(spread(value(line, column) for line in group) for column in COLUMNS)]
        for name, group in sorted(groups.items())
    ]
    header = ["corpus", "minutes", "variant", "size", "seeds", *COLUMNS]
    return f"{machine()}\n\n{table(header, rows)}"


COLUMNS = ("steps", "kept", "alone", "noisiest", "bits", "both", "weight")


def value(line: Mapping[str, Any], column: str) -> float:
    """A number of a result; where no weights but the last were kept, those are of the last step."""
    number = line["steps"] if column == "kept" and line["kept"] is None else line[column]
    return float(number)


if __name__ == "__main__":
    main()
