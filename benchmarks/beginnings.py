"""What is a beginning worth? One text, as many steps, from scratch and from what others have learned. Prints a table.

A causal twin of the starter is trained on general text first, and adapted with and without its logit shift.
The order of time is that of steps: all models have one shape.

Example: python -m benchmarks beginnings GENERAL.jsonl.gz TRAIN.jsonl.gz --heldout HELDOUT.jsonl.gz
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.lib.causal import Twin, save_for_transformers, train_causal, twin_of
from benchmarks.lib.corpora import read_texts
from ssdcli.engine.process import make_process
from ssdcli.evaluation.losses import LossSettings, Passage, measure, passage_of
from ssdcli.machine.placement import Placement
from ssdcli.models.folder import load_backbone
from ssdcli.models.loading import load_model
from ssdcli.registry.adapters import base_of
from ssdcli.registry.store import STARTER, Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings

_TWIN = "causal-twin"
_RATE = 3e-3


@dataclass(frozen=True)
class Way:
    """A way to begin: its title, and what it changes in the settings."""

    title: str
    changes: Mapping[str, Any]


def main() -> None:
    """Train the twin, then a model from each beginning, and measure all of them on the same held-out text."""
    arguments = _arguments()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    print(f"# Beginnings\n\n{datetime.now(UTC):%Y-%m-%d}, {machine}; {arguments.steps} steps each\n")
    with tempfile.TemporaryDirectory() as home:
        registry = Registry(Path(home))
        twin = Path(home) / _TWIN
        _make_twin(twin, registry, arguments)
        print("\n| beginning | bits per byte | nats per token | ± | seconds of training |")
        print("| --- | --- | --- | --- | --- |")
        for way in _ways(registry, twin, arguments.rank):
            print(_row(way, registry, arguments), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("general", type=Path, help="text that the causal twin learns from")
    parser.add_argument("data", type=Path, help="text that all models are trained on")
    parser.add_argument("--heldout", type=Path, required=True, help="text that no model was trained on")
    parser.add_argument("--twin-steps", type=int, default=1000, help="steps of the causal twin")
    parser.add_argument("--steps", type=int, default=300, help="steps from each beginning")
    parser.add_argument("--documents", type=int, default=100, help="held-out documents that are measured")
    parser.add_argument("--learning-rate", type=float, default=_RATE, help="of all trainings but the twin's")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _ways(registry: Registry, twin: Path, rank: int) -> Iterator[Way]:
    config = load_backbone(registry.find(STARTER).folder).config
    yield Way("scratch", {"hidden": config.hidden, "layers": config.layers, "context": config.context})
    yield Way("the starter, continued", {"init": STARTER})
    yield Way("the starter, an adapter on it", {"init": STARTER, "lora": rank})
    for shift in (True, False):
        title = f"causal twin, {'with' if shift else 'without'} shift"
        yield Way(title, {"init": str(twin), "shift": shift, "context": config.context})


def _row(way: Way, registry: Registry, arguments: argparse.Namespace) -> str:
    settings = TrainSettings(
        data=(str(arguments.data),),
        name="benched",
        steps=arguments.steps,
        seed=arguments.seed,
        learning_rate=arguments.learning_rate,
        checkpoint_seconds=3600.0,
        **way.changes,
    )
    trained = train_small(settings, overwrite=True, registry=registry)
    entry = registry.find("benched")
    base = base_of(entry, registry)
    folder, adapter = (entry.folder, None) if base is None else (base.folder, entry.folder)
    model = load_model(folder, Placement(), entry.manifest.block_size, adapter)
    process = make_process(entry.manifest.process, entry.manifest.vocabulary, entry.manifest.constants)
    losses = measure([model], process, _passages(registry, arguments), [1.0], LossSettings(model.context))
    figures = (losses.bits_per_byte()[0], losses.nats_per_token()[0], losses.standard_error()[0])
    return f"| {way.title} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {trained.description.seconds:.0f} |"


def _tokenizer(registry: Registry) -> Tokenizer:
    return Tokenizer.from_file(str(registry.find(STARTER).folder / "tokenizer.json"))


def _passages(registry: Registry, arguments: argparse.Namespace) -> Sequence[Passage]:
    tokenizer = _tokenizer(registry)
    end = special_id(tokenizer, END_OF_TEXT)
    return [passage_of(text, tokenizer, end) for text in read_texts(arguments.heldout, arguments.documents)]


def _make_twin(folder: Path, registry: Registry, arguments: argparse.Namespace) -> None:
    """Train a Qwen3 of the starter's shape to predict the next token, and save it as transformers does."""
    starter, began = registry.find(STARTER), time.monotonic()
    settings = TrainSettings(data=(str(arguments.general),), steps=arguments.twin_steps, seed=arguments.seed)
    tokenizer = starter.folder / "tokenizer.json"
    twin = Twin(twin_of(load_backbone(starter.folder).config), tokenizer)
    made = train_causal(settings, twin, folder, time.monotonic)
    print(f"The twin: {made.steps} steps in {time.monotonic() - began:.0f} s, ", end="")
    print(f"{made.heldout:.3f} nats per next token of its own held-out text.", flush=True)
    save_for_transformers(made.model, tokenizer, folder)


if __name__ == "__main__":
    main()
