"""What the long benchmarks share: corpora by name, trained models that stay, and pieces of work that are done once."""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.lib.corpora import read_texts
from benchmarks.lib.tables import command, machine, today
from benchmarks.lib.timing import processor_seconds
from ssdcli.demo import story as demo
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process import Process, make_process
from ssdcli.errors import UsageError
from ssdcli.evaluation.losses import Passage, passage_of
from ssdcli.machine.placement import Placement
from ssdcli.models.loading import load_model, make_denoiser
from ssdcli.registry.adapters import base_of
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings

Line = dict[str, Any]

_ROOT = Path(__file__).parents[2]
# Arguments by which a file of results only grows.
_MORE = ("corpus", "cores", "models", "seeds", "ratios", "scales", "stops", "out", "table", "plot")


@dataclass(frozen=True)
class Corpus:
    """Text to train on and to measure on; facts are asked where there are any.

    changes: what a training on it changes in the settings.
    """

    name: str
    train: str
    heldout: str
    facts: tuple[demo.Fact, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def notebook(cls) -> Corpus:
        """The bundled one, trained on as the demo does."""
        book = demo.read_notebook()
        settings = demo.settings_for(book)
        changes = {"batch_tokens": settings.batch_tokens, "passes": settings.passes}
        return cls("notebook", str(book.notes), str(book.heldout), book.facts, changes)

    @classmethod
    def of(cls, train: str, heldout: str) -> Corpus:
        """Files by the name of the first, up to its first dot."""
        return cls(Path(train).name.partition(".")[0], train, heldout)


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """A parser of the arguments that all of these scripts have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time for each small training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents alone")
    parser.add_argument("--out", type=Path, help="results, a line for each piece; models lie in a folder beside it")
    parser.add_argument("--table", type=Path, help="only print the tables of this file")
    parser.add_argument("--quick", action="store_true", help="a small run of a minute or so on the notebook")
    return parser


def corpora_of(arguments: argparse.Namespace) -> list[Corpus]:
    """The bundled notebook, and the corpora that are named."""
    return [Corpus.notebook(), *(Corpus.of(*pair) for pair in arguments.corpus)]


def own_text() -> tuple[str, ...]:
    """The project's own documents: some technical English where no general text is at hand."""
    return tuple(str(path) for path in sorted(_ROOT.glob("*.md")))


class Workshop:
    """A file of results and a registry beside it; what is there already is neither trained nor measured again."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Keep all beside `arguments.out`, or where that is lost; UsageError for a file of other arguments' results."""
        self.out: Path = arguments.out or Path(tempfile.mkdtemp(prefix="bench-")) / "out.jsonl"
        self.home = self.out.with_suffix(".home")
        self.registry = Registry(self.home)
        run = {name: str(value) for name, value in sorted(vars(arguments).items()) if name not in _MORE}
        if any(line.get("run", run) != run for line in lines(self.out)):
            raise UsageError(f"{self.out} holds results of other arguments.", "Name another --out.")
        self.piece({"run": run}, stamp)

    def piece(self, asked: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Line:
        """The line that has what is asked for, made and appended where there is none."""
        for line in lines(self.out):
            if asked.items() <= line.items():
                return line
        line = {**asked, **make()}
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return line

    def trained(self, settings: TrainSettings) -> Line:
        """What training the model of this name came to, which is done if it was not; minutes are of processor time."""

        def make() -> Line:
            began = processor_seconds()
            made = train_small(settings, overwrite=True, registry=self.registry, clock=processor_seconds)
            entry = self.registry.find(settings.name)
            recipe = tomllib.loads((entry.folder / "recipe.toml").read_text(encoding="utf-8"))
            chosen = replace(settings, batch_tokens=recipe["batch-tokens"])
            return {
                "steps": made.steps,
                "tokens": made.steps * tokens_a_step(chosen, entry.manifest.context),
                "kept": made.kept,
                "minutes": round((processor_seconds() - began) / 60, 2),
                "own loss": round(float(made.losses.nats_per_token()[-1]), 4),
            }

        return self.piece({"training": settings.name}, make)

    def denoiser(self, name: str) -> Denoiser:
        """A registered model as it denoises; adapters on their base."""
        entry = self.registry.find(name)
        base, manifest = base_of(entry, self.registry), entry.manifest
        folder, adapter = (entry.folder, None) if base is None else (base.folder, entry.folder)
        model = load_model(folder, Placement(), manifest.block_size, adapter)
        return make_denoiser(model, manifest.attention, process_of(entry))


def lines(path: Path) -> list[Line]:
    """The results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def stamp() -> Line:
    """The command that runs, where, and today's date."""
    return {"command": command(), "machine": machine(), "date": today()}


def heading(found: Sequence[Line]) -> str:
    """When, where and how the results of a file were begun, and their seeds."""
    run = next(line for line in found if "run" in line)
    seeds = sorted({line["seed"] for line in found if "seed" in line})
    return f"{run['date']}, {run['machine']}; seeds {', '.join(map(str, seeds))}: `{run['command']}`"


def tokens_a_step(settings: TrainSettings, context: int) -> int:
    """Tokens that a step of a training sees, in whole windows."""
    return max(1, settings.batch_tokens // context) * context


def process_of(entry: Entry) -> Process:
    """The noise process of a registered model."""
    manifest = entry.manifest
    return make_process(manifest.process, manifest.vocabulary, manifest.constants)


def tokenizer_of(entry: Entry) -> Tokenizer:
    """The tokenizer of a registered model."""
    return Tokenizer.from_file(str(entry.folder / "tokenizer.json"))


def end_of(tokenizer: Tokenizer) -> int:
    """The id of end of text."""
    return special_id(tokenizer, END_OF_TEXT)


def passages_of(tokenizer: Tokenizer, heldout: str, limit: int | None = None) -> Sequence[Passage]:
    """The held-out documents of a corpus, at most the first `limit`."""
    end = end_of(tokenizer)
    return [passage_of(text, tokenizer, end) for text in read_texts(Path(heldout), limit)]
