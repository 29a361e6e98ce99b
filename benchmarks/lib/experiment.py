"""Long benchmarks: pieces of work whose results are kept in a file, so that a run can be interrupted and resumed."""

from __future__ import annotations

import json
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.lib.models import Model
from benchmarks.lib.tables import command, machine, mean, signed, today
from benchmarks.lib.timing import processor_seconds
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.registry.store import Registry
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings

Line = dict[str, Any]

_SHOWN = 500  # characters of a result that are printed
# Arguments that may differ between the runs that add to one file of results.
_MORE = (
    "corpus",
    "cores",
    "members",
    "models",
    "lists",
    "parts",
    "small",
    "variants",
    "seeds",
    "ratios",
    "scales",
    "stops",
    "out",
    "table",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that all long benchmarks take."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time for each small training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents only")


def run(given: Namespace, benchmark: ModuleType) -> None:
    """Do the work that is missing, unless `--table` names a file of results; print its report."""
    path: Path | None = given.table
    if path is None:
        if hasattr(benchmark, "check"):
            benchmark.check(given)
        workshop = Workshop(given)
        benchmark.work(given, workshop)
        path = workshop.out
    found = lines(path)
    print(f"{heading_of(found)}\n\n{benchmark.report(found)}")


class Workshop:
    """A file of results and a registry beside it; nothing in them is trained or measured twice."""

    def __init__(self, given: Namespace) -> None:
        """Keep results in `given.out`, by default a temporary file; UsageError if it holds those of other arguments."""
        self.out: Path = given.out or Path(tempfile.mkdtemp(prefix="bench-")) / "out.jsonl"
        self.home = self.out.with_suffix(".home")
        self.registry = Registry(self.home)
        self._models: dict[str, Model] = {}
        arguments = {name: str(value) for name, value in sorted(vars(given).items()) if name not in _MORE}
        if any(line.get("run", arguments) != arguments for line in lines(self.out)):
            raise UsageError(f"{self.out} holds results of other arguments.", "Name another --out.")
        self.piece({"run": arguments}, lambda: {"command": command(), "machine": machine(), "date": today()})

    def piece(self, asked: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> Line:
        """The line that has these values; made and appended to the file if there is none yet."""
        for line in lines(self.out):
            if asked.items() <= line.items():
                return line
        line = {**asked, **make()}
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line)[:_SHOWN], flush=True)
        return line

    def trained(self, settings: TrainSettings) -> Line:
        """The result of training the model of this name, which is trained if it is missing.

        Minutes are of processor time, so that other work on the machine takes no steps from a training.
        """

        def make() -> Line:
            began = processor_seconds()
            made = train_small(settings, overwrite=True, registry=self.registry, clock=processor_seconds)
            training = made.description
            return {
                "size": training.size,
                "steps": training.steps,
                "tokens": training.trained_tokens,
                "kept": training.kept,
                "minutes": round((processor_seconds() - began) / 60, 2),
                "own loss": round(float(made.losses.nats_per_token()[-1]), 4),
            }

        return self.piece({"training": settings.name}, make)

    def model(self, name: str) -> Model:
        """A model of the workshop; copied from the user's registry if it is not there yet."""
        if name not in self._models:
            try:
                self.registry.find(name)
            except NoSuchModel:
                shutil.copytree(Registry().find(name).folder, self.registry.models / name)
            self._models[name] = Model.named(name, self.registry)
        return self._models[name]


def lines(path: Path) -> list[Line]:
    """The results in a file, none if there is no such file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def grouped(found: Sequence[Line], *keys: str) -> dict[tuple[Any, ...], list[Line]]:
    """The lines that have all of these keys, by the keys' values, in the order of the values."""
    groups: dict[tuple[Any, ...], list[Line]] = {}
    for line in found:
        if all(key in line for key in keys):
            groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    return dict(sorted(groups.items()))


def heading_of(found: Sequence[Line]) -> str:
    """When, where and by which command the results of a file were begun, and their seeds."""
    first = next(line for line in found if "run" in line)
    seeds = sorted({line["seed"] for line in found if "seed" in line})
    return f"{first['date']}, {first['machine']}; seeds {', '.join(map(str, seeds))}: `{first['command']}`"


def weights_of(parts: Sequence[Line]) -> str:
    """All weights that were chosen."""
    return " ".join(f"{weight:g}" for weight in sorted({weight for part in parts for weight in part["weights"]}))


def gain_of(parts: Sequence[Line]) -> str:
    """The mean gain of some seeds and the mean of its standard errors, which are over documents."""
    return signed(*(mean(part[column] for part in parts) for column in ("gain", "error")))
