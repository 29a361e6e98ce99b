"""Several processes hold or train one model, register it once, and speak with one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from ssdcli.api import Placement, load
from ssdcli.errors import UsageError
from ssdcli.training.job import check_shares
from ssdcli.training.sharding import check_resumable, set_up
from tests.pulled import add_core
from tests.tiny import add_tiny
from tests.training.together import ERROR, SHARDED_STEPS, STEPS, STOPPED_AT, shared
from tests.trainings import run, write_text

ROOT = Path(__file__).parents[2]
PROCESSES = 2


@dataclass(frozen=True)
class Together:
    """What the processes of tests/training/together.py left behind."""

    folder: Path
    stdout: str
    stderr: str
    seen: list[dict[str, Any]]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return write_text(tmp_path_factory.mktemp("text") / "notes.txt")


@pytest.fixture(scope="module")
def together(text, tmp_path_factory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_HOME", str(folder / "written"))
        add_core("big", "simplex")  # whose canvases are mixtures of embeddings that both have a part of
        add_tiny("notes", 2, process="simplex", kind="small", core="big", attention="full", weight=0.3)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    done = subprocess.run(
        [*torchrun, "-m", "tests.training.together", text, str(folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SSD_HOME": str(folder / "command")},
        capture_output=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads((folder / str(rank)).read_text()) for rank in range(PROCESSES)]
    return Together(folder, done.stdout, done.stderr, seen)


@pytest.fixture(scope="module")
def alone(text, tmp_path_factory) -> Path:
    """The same training by one process."""
    return run(shared(text), tmp_path_factory.mktemp("home")).trained.folder


def curve(folder: Path) -> list[tuple[int, float, float]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row["heldout"]) for row in rows]


def heldout(folder: Path) -> list[tuple[int, float]]:
    return [(step, loss) for step, _, loss in curve(folder)]


def model(home: Path) -> Path:
    """The one model of a registry, whose training has left nothing else."""
    assert list((home / "training").glob("[!.]*")) == []
    (folder,) = (home / "models").glob("[!.]*")
    return folder


def assert_same_curve(folder: Path, other: Path, steps: int) -> None:
    for mine, theirs in zip(curve(folder)[:steps], curve(other)[:steps], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_processes_write_once_what_one_writes(together, monkeypatch):
    monkeypatch.setenv("SSD_HOME", str(together.folder / "written"))
    (code, out, err), other = (seen["written"] for seen in together.seen)
    assert (code, err) == (0, "")
    assert other == [0, "", ""]
    told = json.loads(out)  # one line, of the first process
    writer = load("big", {"notes": 0.3}, placement=Placement("float32"))
    alone = writer.generate("Dear landlord,", seed=told["seed"], max_tokens=16, steps=4)
    assert (told["text"], told["tokens"]) == (alone.text, alone.tokens)


def test_processes_learn_what_one_process_learns(together, alone):
    assert len(curve(alone)) == STEPS
    assert_same_curve(model(together.folder / "command"), alone, STEPS)


def test_processes_answer_once_on_standard_output(together):
    assert json.loads(together.stdout)["steps"] == STEPS
    assert together.stderr == ""
    assert [seen["exit code"] for seen in together.seen] == [0, 0]


def test_the_wish_of_any_process_stops_all_and_the_rest_is_as_if_they_had_not(together):
    assert [seen["again"] for seen in together.seen] == [list(range(1, STEPS + 1))] * PROCESSES
    again, whole = model(together.folder / "again"), model(together.folder / "command")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert heldout(again) == heldout(whole)


def test_another_number_of_processes_goes_on_with_the_same_samples(together, text, alone):
    outcome = run(shared(text), together.folder / "left")
    assert outcome.steps == list(range(STOPPED_AT + 1, STEPS + 1))
    assert heldout(outcome.trained.folder) == [(step, pytest.approx(loss, rel=1e-3)) for step, loss in heldout(alone)]


def test_gradients_weigh_every_scored_token_alike_wherever_it_is(together):
    for seen in together.seen:
        assert seen["distance"] < 1e-2


def test_an_error_of_one_process_ends_all(together):
    for seen in together.seen:
        assert seen["error of the second"] == seen["error of the first"] == ERROR
        assert "the training diverged: at step 1" in seen["diverged"]


def test_processes_without_a_common_folder_are_told_so(together):
    for seen in together.seen:
        assert "Give all processes one SSD_HOME" in seen["apart"]


def test_the_first_process_decides_and_numbers_are_summed(together):
    assert [(seen["agreed"], seen["summed"]) for seen in together.seen] == [(0, [2.0, 1.0])] * PROCESSES


def test_fsdp_learns_what_one_process_learns(together, alone):
    assert_same_curve(model(together.folder / "sharded"), alone, SHARDED_STEPS)


def test_fsdp_registers_whole_weights_after_a_failure_too(together):
    assert together.seen[0]["sharded"]["parameters"] > 0
    for seen in together.seen:
        assert seen["sharded"]["error"] == ERROR
        assert seen["sharded"]["steps"] == []


def test_fsdp_resumes_exactly(together):
    assert [seen["sharded again"] for seen in together.seen] == [list(range(1, SHARDED_STEPS + 1))] * PROCESSES
    again, whole = model(together.folder / "sharded-again"), model(together.folder / "sharded")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert heldout(again) == heldout(whole)


@pytest.mark.parametrize(("batch", "processes"), [(1, 2), (3, 2), (4, 8)])
def test_a_step_that_cannot_be_shared_evenly_is_refused(batch, processes):
    with pytest.raises(UsageError, match=f"a step of {batch} sequences .* {processes} processes"):
        check_shares(batch, processes)
    check_shares(batch * processes, processes)


def sharded(version: int) -> Any:
    return SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=version)))


def test_an_fsdp_that_cannot_be_is_refused(monkeypatch):
    model, none = nn.Linear(2, 2), SimpleNamespace(state=None)
    set_up(sharded(2), model, 2)
    with pytest.raises(UsageError, match="--fsdp_version 2"):
        set_up(sharded(1), model, 2)
    with pytest.raises(UsageError, match="at least two sequences"):
        set_up(sharded(2), model, 1)
    set_up(none, model, 1)
    model.bias.requires_grad_(False)
    with pytest.raises(UsageError, match="an adapter"):
        set_up(sharded(2), model, 2)
    set_up(none, model, 2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="there are none"):
        set_up(none, model, 2)


def test_a_training_goes_on_with_fsdp_only_if_it_began_so(tmp_path):
    check_resumable(tmp_path, sharded(2))
    with pytest.raises(UsageError, match="begun with FSDP"):
        check_resumable(tmp_path, SimpleNamespace(state=None))
    (tmp_path / "optimizer.pt").touch()
    check_resumable(tmp_path, SimpleNamespace(state=None))
    with pytest.raises(UsageError, match="begun without FSDP"):
        check_resumable(tmp_path, sharded(2))
