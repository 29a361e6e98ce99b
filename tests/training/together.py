"""Trainings, and a text, by several processes.

Run as `torchrun together.py TEXT FOLDER`; process N leaves what it saw in FOLDER/N. Each training has a registry in
FOLDER: `command` one of the command line, `again` one that was stopped and resumed, `sharded` and `sharded-again` the
same with FSDP, `left` one that was stopped. `written` is a registry of which a core and a small model write.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from ssdcli.cli.app import main as ssd
from ssdcli.errors import SsdError
from ssdcli.machine.distributed import barrier, from_rank_zero, rank_zero_first, summed_over_ranks, world_size
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.registry.store import Registry
from ssdcli.training import job
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from ssdcli.training.trainer import SmallTrainer
from tests.trainings import tiny_settings

RANK = int(os.environ.get("RANK", "0"))
STEPS = 4
SHARDED_STEPS = 2
STOPPED_AT = 1
ERROR = "there is no paper."
WRITTEN = ("--max-tokens", "16", "--steps", "4", "--dtype", "float32", "--json")


def shared(text: str, **changes: Any) -> TrainSettings:
    """A training that two processes can share."""
    return tiny_settings(text, **{"steps": STEPS, "batch_tokens": 256, "heldout": 0.1, **changes})


def command_of(settings: TrainSettings) -> list[str]:
    """`ssd train-small` with these settings."""
    fixed = {key: value for key, value in asdict(settings).items() if value != getattr(TrainSettings(), key)}
    del fixed["data"]
    flags = [word for key, value in fixed.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    return ["train-small", *settings.data, *["--for" if word == "--core" else word for word in flags], "--json"]


def written(home: Path) -> tuple[int, str, str]:
    """The code, standard output and standard error of `ssd generate`; only the first process is given the prompt."""
    usual = os.environ["SSD_HOME"]
    os.environ["SSD_HOME"] = str(home)
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"Dear landlord," if RANK == 0 else b""))
    said = [home / f"{stream}-{RANK}" for stream in ("out", "err")]  # files, since descriptors are silenced
    with said[0].open("w") as out, said[1].open("w") as err, redirect_stdout(out), redirect_stderr(err):
        code = ssd(["generate", "--with", "notes=0.3", *WRITTEN])
    os.environ["SSD_HOME"] = usual
    return code, *(path.read_text() for path in said)


def stopped_and_resumed(settings: TrainSettings, home: Path) -> list[int]:
    """The steps of a training that the second process wants to stop, and of the rest of it."""
    steps = stopped(settings, home)
    train_small(settings, Watcher(on_progress=lambda progress: steps.append(progress.step)), registry=Registry(home))
    return steps


def stopped(settings: TrainSettings, home: Path) -> list[int]:
    """The steps before the second process wanted to stop."""
    steps: list[int] = []
    watcher = Watcher(
        on_progress=lambda progress: steps.append(progress.step),
        wants_stop=lambda: RANK == 1 and steps[-1] == STOPPED_AT,
    )
    assert "its checkpoint is kept" in error_of(lambda: train_small(settings, watcher, registry=Registry(home)))
    return steps


def error_of(act: Callable[[], object]) -> str:
    """What an error says."""
    try:
        act()
    except SsdError as error:
        return str(error)
    return ""


def second_fails() -> None:
    """An error of one process."""
    with barrier():
        if RANK == 1:
            raise SsdError(ERROR)


def first_fails() -> None:
    """An error of the first process before the others begin."""
    with rank_zero_first():
        if RANK == 0:
            raise SsdError(ERROR)
        raise AssertionError


def diverged(text: str, home: Path) -> str:
    """What a training says in which the loss of the second process is not a number."""
    forward = Objective.forward
    Objective.forward = lambda *arguments, **named: forward(*arguments, **named) * (math.nan if RANK == 1 else 1.0)
    said = error_of(lambda: train_small(shared(text), registry=Registry(home)))
    Objective.forward = forward
    return said


def uneven_gradients(text: str, home: Path) -> float:
    """How far the gradients of unevenly scored rows are from those of one process that has them all."""
    found: list[float] = []
    train = SmallTrainer.training_step

    def step(self: SmallTrainer, model: Any, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        inputs["columns"]["scored"][:, 4 + 40 * RANK :] = False
        table = self.objective.backbone.table
        with self.accelerator.autocast():
            (whole,) = torch.autograd.grad(self.objective(**all_rows(inputs)), table)
        loss = train(self, model, inputs, *args)
        found.append(float((table.grad - whole).norm() / whole.norm()))
        return loss

    SmallTrainer.training_step = step
    train_small(shared(text, steps=1), registry=Registry(home))
    SmallTrainer.training_step = train
    return found[0]


def all_rows(inputs: dict[str, Any]) -> dict[str, Any]:
    """The rows of all processes, in their order."""

    def joined(part: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(part) for _ in range(world_size())]
        torch.distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    columns = {name: joined(column) for name, column in inputs["columns"].items()}
    return {"columns": columns, "index": joined(inputs["index"])}


def shard() -> None:
    """Let accelerate use FSDP between processes on a CPU, which it does on accelerators alone."""
    os.environ.update(
        ACCELERATE_USE_FSDP="true",
        FSDP_VERSION="2",
        FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
        FSDP_TRANSFORMER_CLS_TO_WRAP="Qwen3DecoderLayer",
    )
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_XPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def sharded_training(settings: TrainSettings, home: Path) -> dict[str, object]:
    """Train with FSDP; the first registration fails, so that the finished weights are read again."""
    facts: dict[str, object] = {}
    finish = job.finish

    def fail(prepared: Any, trainer: SmallTrainer, *_: Any) -> Any:
        facts["parameters"] = sum(isinstance(p, DTensor) for p in trainer.objective.parameters())
        assert type(prepared.model) is BlockDiffusionLM
        raise SsdError(ERROR)

    job.finish = fail
    facts["error"] = error_of(lambda: train_small(settings, registry=Registry(home)))
    job.finish = finish
    steps: list[int] = []
    train_small(settings, Watcher(on_progress=lambda progress: steps.append(progress.step)), registry=Registry(home))
    return facts | {"steps": steps}


def main(text: str, folder: Path) -> None:
    """Train in all the ways."""
    own = folder / str(RANK)
    facts: dict[str, object] = {
        "written": written(folder / "written"),
        "error of the second": error_of(second_fails),
        "error of the first": error_of(first_fails),
        "agreed": from_rank_zero(lambda: RANK),
        "summed": summed_over_ranks([1.0, RANK]),
        "distance": uneven_gradients(text, folder / "uneven"),
        "diverged": diverged(text, folder / "diverged"),
        "left": stopped(shared(text), folder / "left"),
        "apart": error_of(lambda: train_small(shared(text), registry=Registry(folder / f"apart{RANK}"))),
        "again": stopped_and_resumed(shared(text), folder / "again"),
        "exit code": ssd(command_of(shared(text))),
    }
    shard()
    few = shared(text, steps=SHARDED_STEPS)
    facts["sharded"] = sharded_training(few, folder / "sharded")
    facts["sharded again"] = stopped_and_resumed(few, folder / "sharded-again")
    own.write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
