"""An interrupted training goes on to the same weights, optimiser and schedule, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ssdcli.errors import Interrupted, SsdError, UsageError
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import begin, resumed, saved_settings
from tests.training.killed import KILLED_AT, MOMENTS
from tests.trainings import STEPS, Outcome, run, tiny_settings, write_text

PROCESSES = ("simplex", "masked")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return write_text(tmp_path_factory.mktemp("text") / "notes.txt")


@pytest.fixture(scope="module")
def uninterrupted(text, tmp_path_factory) -> dict[str, Outcome]:
    return {p: run(tiny_settings(text, process=p), tmp_path_factory.mktemp("home")) for p in PROCESSES}


@pytest.fixture(scope="module")
def killed(text, tmp_path_factory) -> Path:
    if not hasattr(os, "fork"):
        pytest.skip("kills child processes")
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.training.killed", text, str(folder)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TOKENIZERS_PARALLELISM": "false"}, check=True)
    return folder


def assert_same(resumed: Outcome, whole: Outcome, home: Path) -> None:
    assert resumed.state == whole.state
    weights = home / "models" / "tiny" / "model.safetensors"
    assert weights.read_bytes() == (whole.trained.folder / "model.safetensors").read_bytes()
    assert resumed.trained.description.steps == STEPS
    assert resumed.trained.description.quality.bits_per_byte == whole.trained.description.quality.bits_per_byte


@pytest.mark.parametrize("process", PROCESSES)
def test_a_training_stopped_twice_ends_as_if_it_never_was(process, text, uninterrupted, tmp_path):
    settings = tiny_settings(text, process=process, checkpoint_seconds=1000.0)  # so only stopping saves
    for last in (1, 4):
        with pytest.raises(Interrupted, match="--resume --name tiny"):
            run(settings, tmp_path, stop_after=last)
        assert saved_settings(Registry(tmp_path), "tiny") is not None
    outcome = run(settings, tmp_path)
    assert outcome.steps == [5, 6]
    assert_same(outcome, uninterrupted[process], tmp_path)


@pytest.mark.parametrize(("process", "moment"), MOMENTS)
def test_a_training_killed_at_any_moment_ends_as_if_it_never_was(process, moment, text, uninterrupted, killed):
    home = killed / f"{process}-{moment}"
    outcome = run(tiny_settings(text, process=process), home)
    first = {"published": KILLED_AT + 1, "finishing": STEPS + 1}.get(moment, KILLED_AT)
    assert outcome.steps == list(range(first, STEPS + 1))
    assert_same(outcome, uninterrupted[process], home)
    assert list((home / "training").glob("[!.]*")) == []


def test_a_resumed_training_forgets_nothing_of_its_curve(text, tmp_path):
    with pytest.raises(Interrupted):
        run(tiny_settings(text), tmp_path, stop_after=3)
    folder = run(tiny_settings(text), tmp_path).trained.folder
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_more_minutes_for_the_rest_do_not_change_the_model(text, tmp_path):
    registry = Registry(tmp_path)
    settings = tiny_settings(text, steps=None, minutes=1.0, hidden=None, layers=None)
    with pytest.raises(Interrupted):
        run(settings, tmp_path, stop_after=1)
    longer = resumed(registry, "tiny", {"minutes": 1000.0})
    assert (longer.minutes, longer.size) == (1000.0, "nano")
    by_steps = resumed(registry, "tiny", {"steps": 2})
    assert by_steps.minutes is None
    assert run(by_steps, tmp_path).trained.description.size == "nano"


def save_job(home: Path, **fields) -> None:
    folder = home / "training" / "tiny"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(fields))


def test_the_settings_of_an_older_version_can_be_resumed(tmp_path):
    old = asdict(tiny_settings("notes.txt"))
    del old["checkpoint_seconds"]
    save_job(tmp_path, **old, anneal=0.2, distill_samples=9)
    assert saved_settings(Registry(tmp_path), "tiny") == tiny_settings("notes.txt", checkpoint_seconds=60.0)


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        ({"reads_core": True, "gap_share": 0.25, "block_size": 12}, {"reads_core": True}),
        ({"lora": 8, "gap_share": 0.25, "block_size": 12}, {"lora": 8}),
        ({"lora": 8, "init": "notes", "gap_share": 0.25}, {"lora": 8, "init": "notes", "gap_share": 0.25}),
        ({"causal": True, "gap_share": 0.25, "block_size": 12}, {"causal": True, "block_size": 12}),
        ({"draft_head": True, "gap_share": 0.25}, {"draft_head": True}),
        ({"distill": "core", "distill_weight": 0.0}, {}),
        ({"distill": "core", "distill_weight": 0.5}, {"distill": "core", "distill_weight": 0.5}),
    ],
)
def test_what_an_older_version_kept_and_did_not_use_is_ignored(kept, read, tmp_path):
    save_job(tmp_path, data=[], name="tiny", core="core", **kept)
    assert saved_settings(Registry(tmp_path), "tiny") == TrainSettings(name="tiny", core="core", **read)


def test_settings_that_cannot_be_read_are_named(tmp_path):
    save_job(tmp_path, data=[], colour="green")
    with pytest.raises(SsdError, match=r"job\.json cannot be read"):
        saved_settings(Registry(tmp_path), "tiny")


def test_only_the_budget_and_the_rate_of_a_training_can_be_changed(tmp_path):
    save_job(tmp_path, **asdict(tiny_settings("notes.txt")))
    registry = Registry(tmp_path)
    assert resumed(registry, "tiny", {}) == tiny_settings("notes.txt")
    assert resumed(registry, "tiny", {"data": ["notes.txt"], "seed": 0}) == tiny_settings("notes.txt")
    changed = resumed(registry, "tiny", {"learning_rate": 1e-3, "steps": 9})
    assert changed == tiny_settings("notes.txt", learning_rate=1e-3, steps=9)
    for given in ({"data": ["mail.txt"]}, {"seed": 1}, {"hidden": 64}, {"process": "masked"}):
        with pytest.raises(UsageError, match=f"a resumed training keeps its {next(iter(given))}"):
            resumed(registry, "tiny", given)
    for wrong in ({"learning_rate": -1.0}, {"steps": 0}, {"steps": 1, "minutes": 1.0}):
        with pytest.raises(UsageError):
            resumed(registry, "tiny", wrong)


def test_a_new_start_that_cannot_be_leaves_an_interrupted_training_alone(text, tmp_path):
    registry = Registry(tmp_path)
    with pytest.raises(Interrupted):
        run(tiny_settings(text), tmp_path, stop_after=2)
    left_to_core = {"block_size": 16, "vocabulary": 8192}
    for wrong in ({"data": ("absent.txt",)}, {"data": ()}, {"core": "absent", **left_to_core}):
        with pytest.raises(SsdError):
            begin(registry, replace(tiny_settings(text), **wrong), overwrite=True)
    with pytest.raises(UsageError, match="Pass --resume"):
        begin(registry, tiny_settings(text), overwrite=False)
    assert run(tiny_settings(text), tmp_path).steps == [3, 4, 5, 6]


def test_what_was_never_begun_cannot_be_resumed(tmp_path):
    assert saved_settings(Registry(tmp_path), "tiny") is None
    with pytest.raises(UsageError, match="there is no unfinished training of 'tiny'"):
        resumed(Registry(tmp_path), "tiny", {})


def test_settings_are_checked_before_they_are_saved(tmp_path):
    with pytest.raises(UsageError, match="steps=0 must be at least 1"):
        run(TrainSettings(name="tiny", steps=0), tmp_path)
    assert not (tmp_path / "training").exists()
