"""Trainings with a teacher, from its name to what is registered."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ssdcli.cli.flags import resolve
from ssdcli.errors import Interrupted, NoSuchModel, UsageError
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import train_tokenizer
from ssdcli.training import job
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_core
from tests.tiny import VOCABULARY, add_tiny
from tests.trainings import SHAPE, Outcome, run, write_text


@pytest.fixture
def text(tmp_path) -> str:
    return write_text(tmp_path / "notes.txt", words=600)


def taught(text: str, **changes: Any) -> TrainSettings:
    """A small model in three steps for the core `big`, which teaches it."""
    fields: dict[str, Any] = {"core": "big", "name": "notes", "steps": 3, "checkpoint_seconds": 0.0, **SHAPE}
    return TrainSettings(**{"data": (text,), **fields, "distill": "big", **changes})


def run_here(settings: TrainSettings, **how: Any) -> Outcome:
    return run(replace(settings, steps=3), Registry().home, **how)


def weights(settings: TrainSettings) -> bytes:
    folder = train_small(settings, overwrite=True).folder
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("process", ["simplex", "masked"])
def test_a_training_with_a_teacher_is_another_than_that_of_the_text_alone(process, text):
    add_tiny("big", process=process)
    assert weights(taught(text, distill_weight=0.5)) != weights(taught(text, distill=None))


def test_a_teacher_that_read_the_documents_teaches_something_else(text):
    add_tiny("big", process="simplex", context=128)
    plain, in_context = (weights(taught(text, distill_context=read)) for read in (False, True))
    assert plain != in_context


def test_the_losses_that_are_noted_are_those_of_the_text(text):
    add_tiny("big", process="simplex")
    losses = []
    for share in (0.1, 1.0):
        folder = train_small(taught(text, distill_weight=share, steps=1), overwrite=True).folder
        losses.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_an_interrupted_training_with_a_teacher_goes_on_as_if_it_had_not_been(text, tmp_path, monkeypatch):
    outcomes, settings = [], taught(text)
    for home, stop_after in (("whole", None), ("parts", 2)):
        monkeypatch.setenv("SSD_HOME", str(tmp_path / home))
        add_tiny("big", process="simplex")
        if stop_after is not None:
            with pytest.raises(Interrupted):
                run_here(settings, stop_after=stop_after)
        outcomes.append(run_here(settings))
    assert outcomes[1].steps == [3]
    assert outcomes[1].state["model.safetensors"] == outcomes[0].state["model.safetensors"]


def test_a_pulled_core_teaches(text):
    add_core("pulled", "masked")
    without = weights(taught(text, core="pulled", distill=None))
    assert weights(taught(text, core="pulled", distill="pulled", distill_weight=1.0)) != without


def test_a_small_model_can_teach_another_one(text):
    add_tiny("big", process="simplex")
    add_tiny("older", 2, process="simplex", kind="small", core="big")
    by_core, by_small = (weights(taught(text, distill=name)) for name in ("big", "older"))
    assert by_core != by_small


def test_the_teacher_is_gone_when_the_core_is_measured(text, monkeypatch):
    add_tiny("big", process="simplex")
    objectives: list[Objective] = []

    def noting(*args: Any) -> Objective:
        objectives.append(Objective(*args))
        assert objectives[-1].teacher is not None
        return objectives[-1]

    monkeypatch.setattr(job, "Objective", noting)
    here = []
    watcher = Watcher(on_measuring=lambda: here.append(objectives[-1].teacher))
    train_small(taught(text), watcher)
    assert here == [None]


def test_the_recipe_in_the_folder_repeats_the_training(text):
    add_tiny("big", process="simplex", context=128)
    settings = taught(text, distill_context=True, distill_weight=0.4)
    trained = train_small(settings)
    before = (trained.folder / "model.safetensors").read_bytes()
    recipe = trained.folder / "recipe.toml"
    assert "distill-context = true" in recipe.read_text().replace("_", "-")
    again = resolve(TrainSettings, {"data": [text], "name": "again"}, recipe)
    assert (again.distill, again.distill_weight, again.distill_context) == ("big", 0.4, True)
    assert (train_small(again).folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"process": "uniform"}, "its noise process is uniform"),
        ({"tokenizer": train_tokenizer(["other words and more of them " * 9], VOCABULARY)}, "their tokenizers differ"),
        ({"block_size": 16}, "its block size is 16, not 8"),
        ({"attention": "causal"}, "cannot denoise all blocks of a text in one pass"),
        ({"context": 32}, "'other' has a context of 32 tokens, and the windows of this training have 64"),
    ],
)
def test_a_model_that_cannot_teach_is_refused(changes, said, text):
    add_tiny("big", process="simplex")
    add_tiny("other", **{"process": "simplex", **changes})
    with pytest.raises(UsageError) as refused:
        train_small(taught(text, distill="other"))
    assert said in refused.value.problem
    assert "--distill" in refused.value.remedy or "distill" in refused.value.remedy
    assert not (Registry().home / "training" / "notes").exists()


def test_a_core_from_scratch_has_no_teacher(text):
    add_tiny("big", process="simplex")
    with pytest.raises(UsageError, match="a core from scratch has its own tokens"):
        train_small(taught(text, core="none", vocabulary=300, block_size=8))


def test_a_teacher_that_is_not_there_is_said(text):
    add_tiny("big", process="simplex")
    with pytest.raises(NoSuchModel, match="nobody"):
        train_small(taught(text, distill="nobody"))


def test_what_is_for_a_teacher_is_refused_without_one():
    with pytest.raises(UsageError, match="but no teacher"):
        TrainSettings(name="notes", distill_context=True)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.5])
def test_no_share_of_the_loss_and_one_beyond_the_whole_are_refused(share):
    with pytest.raises(UsageError, match=r"distill_weight=.* must be above 0 and at most 1\."):
        TrainSettings(name="notes", distill="big", distill_weight=share)
