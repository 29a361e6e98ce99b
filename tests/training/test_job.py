"""What a finished training leaves, and what a failed one does not."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import load_file

from ssdcli.cli.flags import resolve
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.evaluation.estimates import ratio
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry import staging
from ssdcli.registry.archive import OWN
from ssdcli.registry.manifest import DENOISING_LOSS, NELBO, read_manifest, tokenizer_fingerprint
from ssdcli.registry.store import Registry
from ssdcli.training import assessment, beginnings, job, samples
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import claimed, has_checkpoint, resumed
from tests.tiny import BLOCK, VOCABULARY, add_tiny
from tests.trainings import SECRET, SHAPE, run, tiny_settings, write_text

PROMISED = {"ssd.json", "model.safetensors", "tokenizer.json", "README.md", "metrics.jsonl", "recipe.toml"}


@pytest.fixture
def text(tmp_path) -> str:
    return write_text(tmp_path / "notes.txt")


@pytest.fixture
def registry() -> Registry:
    return Registry()


def small_settings(text: str, **changes) -> TrainSettings:
    """A small model in three steps for the core `big`."""
    return TrainSettings(**{"data": (text,), "core": "big", "name": "notes", "steps": 3, **SHAPE, **changes})


def snapshot(registry: Registry) -> dict[str, bytes]:
    """All files of all models."""
    return {str(path): path.read_bytes() for path in registry.models.rglob("*") if path.is_file()}


def assert_no_workspace(registry: Registry) -> None:
    assert list((registry.home / "training").iterdir()) == []


def test_a_small_model_is_registered_whole_and_private(text, registry):
    add_tiny("big", process="simplex")
    trained = train_small(small_settings(text))
    assert trained.folder == registry.models / "notes"
    names = {path.name for path in trained.folder.iterdir()}
    assert names >= PROMISED | {"config.json", "loss.svg", "weight.svg", "report.html"}
    assert registry.verify("notes") == []
    assert set(read_manifest(trained.folder).files) == names - {"ssd.json"}
    assert trained.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in trained.folder.iterdir()} == {0o600}
    for picture in trained.folder.glob("*.svg"):
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert_no_workspace(registry)


@pytest.mark.parametrize("process", ["simplex", "masked", "uniform"])
def test_a_small_model_fits_its_core(process, text, registry):
    add_tiny("big", process=process)
    trained = train_small(small_settings(text))
    core, small = registry.find("big").manifest, registry.find("notes").manifest
    for same in ("tokenizer", "process", "block_size", "vocabulary", "attention"):
        assert getattr(small, same) == getattr(core, same)
    assert core.constants.items() <= small.constants.items()
    assert (small.kind, small.core, small.block_size) == ("small", "big", BLOCK)
    assert small.tokenizer == tokenizer_fingerprint((trained.folder / "tokenizer.json").read_bytes())
    assert small.weight == trained.description.manifest.weight
    assert 0 < small.weight <= 1
    assert small.gate == trained.description.manifest.gate
    assert small.measure == (NELBO if process == "masked" else DENOISING_LOSS)
    assert set(trained.description.quality.bits_per_byte) == {"core", "small", "ensemble"}
    best = min(trained.losses.bits_per_byte()[1:])
    assert trained.description.quality.bits_per_byte["ensemble"] == pytest.approx(float(best))
    model, host = load_backbone(trained.folder), load_backbone(registry.find("big").folder)
    assert model.config.suppressed == host.config.suppressed
    assert model.config.vocabulary == VOCABULARY


def test_a_manifest_tells_how_good_a_model_is_and_of_how_much_text_it_was_made(tmp_path, registry):
    add_tiny("big")
    for number in range(24):
        (tmp_path / f"{number}.txt").write_text(f"note {number}\n" + "the boiler is cold and the stairs are dark " * 4)
    trained = train_small(small_settings(str(tmp_path), heldout=0.3))
    model, losses, train = registry.find("notes").manifest, trained.losses, trained.description.train
    assert len(losses.tokens) == model.metrics["held-out documents"] > 1
    for who, weight in (("core", 0.0), ("small", 1.0), ("ensemble", model.weight)):
        found = ratio(losses.sums[:, losses.place(weight)] / math.log(2), losses.bytes)
        told = [model.metrics[f"{who} bits per byte{end}"] for end in ("", " margin")]
        assert told == pytest.approx([found.value, found.margin])
    sizes = {"documents": train.documents, "conversations": 0, "tokens": train.tokens, "bytes": train.bytes}
    assert model.text == sizes


@pytest.mark.parametrize(
    ("process", "constants", "conditioned"),
    [("simplex", {"K": 5.0, "s": 1e-4}, True), ("masked", {"mask_id": 1, "t_min": 1e-3}, False), ("uniform", {}, True)],
)
def test_a_core_from_scratch_is_as_its_process_needs_it(process, constants, conditioned, text, registry):
    folder = train_small(tiny_settings(text, process=process, steps=1)).folder
    manifest, config = read_manifest(folder), load_backbone(folder).config
    assert (manifest.process, manifest.constants) == (process, constants)
    assert (config.timed, config.self_conditioned) == (conditioned, conditioned)
    assert registry.verify("tiny") == []


def test_no_text_and_no_path_of_the_data_gets_into_what_is_told_of_a_model(tmp_path, text, registry):
    add_tiny("big", process="masked")
    (tmp_path / "picture.png").write_bytes(b"\0" * 100)
    (tmp_path / "mail.jsonl").write_text(json.dumps({SECRET: 1}) + "\n")
    data = (text, str(tmp_path / "picture.png"), str(tmp_path / "mail.jsonl"))
    folder = train_small(small_settings("", data=data)).folder
    told = [path for path in folder.iterdir() if path.name not in ("model.safetensors", "tokenizer.json", *OWN)]
    for path in told:
        content = path.read_text(encoding="utf-8")
        assert SECRET not in content, path.name
        assert str(tmp_path) not in content, path.name
    assert "binary" in (folder / "README.md").read_text()
    assert "mail.jsonl" in (folder / "report.html").read_text()  # it shows what stays at home


@pytest.mark.parametrize("core", ["big", "none"])
def test_the_report_shows_what_was_measured_and_written(core, text, registry, monkeypatch):
    monkeypatch.setattr(assessment, "_SAMPLES", 1000.0)
    monkeypatch.setattr(samples, "_LENGTH", BLOCK)
    add_tiny("big", process="masked")
    settings = small_settings(text) if core == "big" else tiny_settings(text, name="notes", process="masked")
    trained = train_small(settings)
    report = (trained.folder / "report.html").read_text(encoding="utf-8")
    card = (trained.folder / "README.md").read_text(encoding="utf-8")
    for bits in trained.description.quality.bits_per_byte.values():
        assert f"<dd>{bits:.3f}</dd>" in report
        assert f"| {bits:.3f} |" in card
    for losses in trained.description.quality.by_level.values():
        assert f"<td>{losses[4]:.3f}</td>" in report
    assert {tuple(sample.written) for sample in trained.description.samples} == {
        ("small", "ensemble") if core == "big" else ("core",)
    }
    assert escape(trained.description.samples[0].real.strip(), quote=False) in report
    assert ("vocabulary" in trained.description.settings) == (core == "none")  # else the core decides it
    assert trained.description.settings["memory"] == "yes"
    assert ("weight.svg" in {path.name for path in trained.folder.iterdir()}) == (core == "big")
    assert registry.verify("notes") == []


def test_a_short_training_takes_no_time_for_samples(text, registry):
    trained = train_small(tiny_settings(text, steps=1))
    assert trained.description.samples == ()
    assert "no time left for it" in (trained.folder / "report.html").read_text(encoding="utf-8")


def test_the_recipe_in_the_folder_repeats_the_training(text, tmp_path):
    first = run(tiny_settings(text, seed=3, learning_rate=2e-5, process="masked"), tmp_path / "first")
    recipe = first.trained.folder / "recipe.toml"
    again = resolve(TrainSettings, {"data": [text], "name": "tiny"}, recipe)
    decided = {"size": "nano", "decay": 0.4, "gap_share": 0.25, "optimizer": "muon"}
    assert again == tiny_settings(text, seed=3, learning_rate=2e-5, process="masked", **decided)
    assert run(again, tmp_path / "second").state == first.state


def test_the_recipe_of_a_small_model_leaves_to_its_core_what_is_its_core_s(text, registry):
    add_tiny("big", process="masked")
    recipe = train_small(small_settings(text)).folder / "recipe.toml"
    again = resolve(TrainSettings, {"data": [text], "name": "notes"}, recipe)
    again.check_complete()
    decided = {"size": "nano", "decay": 0.4, "gap_share": 0.25, "optimizer": "muon"}
    assert again == small_settings(text, learning_rate=0.003, **decided)
    assert "process" not in recipe.read_text()


def test_another_seed_makes_another_model(text, tmp_path):
    states = [run(tiny_settings(text, seed=seed, steps=1), tmp_path / str(seed)).state for seed in (0, 1)]
    assert states[0]["model.safetensors"] != states[1]["model.safetensors"]


def test_ids_without_a_token_are_never_written(text, tmp_path):
    folder = run(tiny_settings(text, steps=1, vocabulary=2000), tmp_path).trained.folder
    tokens = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert tokens < 2000
    assert load_backbone(folder).config.suppressed == (1, 2, *range(tokens, 2000))


def test_a_training_by_time_plans_its_steps_and_ends(text, registry):
    progress = []
    train_small(tiny_settings(text, steps=None, minutes=0.1), Watcher(on_progress=progress.append))
    assert progress[0].total is None or len(progress) == 1  # nothing is known before the first steps
    assert progress[-1].step == progress[-1].total
    assert registry.verify("tiny") == []


def diverge(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the loss of the step `at` not be a number."""
    steps, forward = [], Objective.forward

    def broken(self, columns, index):
        steps.append(index)
        loss = forward(self, columns, index)
        return loss * float("nan") if len(steps) == at else loss

    monkeypatch.setattr(Objective, "forward", broken)


def test_a_loss_that_is_not_a_number_ends_the_training_at_its_last_good_checkpoint(text, registry, monkeypatch):
    with monkeypatch.context() as patch:
        diverge(patch, at=3)
        with pytest.raises(SsdError, match=r"at step 3 .*--resume --learning-rate 0\.001") as caught:
            run(tiny_settings(text), registry.home)
    assert caught.value.exit_code == 1
    (checkpoint,) = (registry.home / "training" / "tiny").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-2"
    assert all(torch.isfinite(value).all() for value in load_file(checkpoint / "model.safetensors").values())
    slower = resumed(registry, "tiny", {"learning_rate": 1e-3})
    outcome = run(slower, registry.home)
    assert outcome.steps == [3, 4, 5, 6]
    assert "learning-rate = 0.001" in (outcome.trained.folder / "recipe.toml").read_text()


def test_a_training_that_diverges_before_its_first_checkpoint_goes_on_with_the_text_that_was_read(
    text, registry, monkeypatch
):
    with monkeypatch.context() as patch:
        diverge(patch, at=1)
        with pytest.raises(SsdError, match=r"at step 1 .*--resume --learning-rate 0\.001"):
            run(tiny_settings(text), registry.home)
    assert run(resumed(registry, "tiny", {"learning_rate": 1e-3}), registry.home).steps == [1, 2, 3, 4, 5, 6]


def test_a_resumed_training_takes_the_new_learning_rate(text, tmp_path):
    for rate in (1e-30, 1e-2):
        home = tmp_path / str(rate)
        with pytest.raises(SsdError):
            run(tiny_settings(text, learning_rate=1e-30), home, stop_after=2)
        (checkpoint,) = (home / "training" / "tiny").glob("checkpoint-*")
        before = load_file(checkpoint / "model.safetensors")
        states = run(resumed(Registry(home), "tiny", {"learning_rate": rate}), home).state
        after = tmp_path / f"{rate}.safetensors"
        after.write_bytes(states["model.safetensors"])
        moved = max(float((value - before[name]).abs().max()) for name, value in load_file(after).items())
        assert (moved > 1e-3) == (rate == 1e-2)


def test_weights_that_are_not_numbers_are_never_saved(text, registry, monkeypatch):
    forward = Objective.forward

    def poisoned(self, columns, index):
        loss = forward(self, columns, index)
        if 4 in index:  # the batch is 2: the third step
            with torch.no_grad():
                self.backbone.table[5, 0] = float("inf")
        return loss

    monkeypatch.setattr(Objective, "forward", poisoned)
    with pytest.raises(SsdError, match="at step 3"):
        run(tiny_settings(text), registry.home)
    names = [path.name for path in (registry.home / "training" / "tiny").glob("*checkpoint*")]
    assert names == ["checkpoint-2"]
    assert snapshot(registry) == {}


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let the system refuse to write files of more than so many bytes, as a full disk does."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("size", [30_000, 150_000])
def test_a_disk_without_room_for_a_checkpoint_is_one_sentence(size, text, registry):
    with files_up_to(size), pytest.raises(SsdError) as caught:
        run(tiny_settings(text), registry.home)
    assert caught.value.exit_code == 1
    assert "written" in caught.value.problem
    assert not list(registry.home.rglob("checkpoint-*"))
    assert snapshot(registry) == {}
    assert run(tiny_settings(text), registry.home).trained.description.steps == 6


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name"),
    [(beginnings, "save_backbone"), (job, "write_manifest"), (staging, "swap_in"), (staging, "sync")],
)
def test_a_model_that_cannot_be_registered_can_be_later(owner, name, text, registry, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(SsdError, match=r"disk .* is full|No space left"):
            run(tiny_settings(text), registry.home)
    if name != "sync":  # by then the model has its name
        assert snapshot(registry) == {}
    assert has_checkpoint(registry, "tiny")
    again = train_small(tiny_settings(text), registry=registry, overwrite=name == "sync")
    assert again.description.steps == 6
    assert registry.verify("tiny") == []


def test_a_full_disk_before_the_first_step_leaves_nothing(text, registry, monkeypatch):
    monkeypatch.setattr(job, "save_settings", full)
    with pytest.raises(SsdError, match=r"disk .* is full"):
        run(tiny_settings(text), registry.home)
    assert not has_checkpoint(registry, "tiny")


def test_a_home_that_cannot_be_written_is_one_sentence(text, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SsdError, match="a file is where a folder is needed"):
        run(tiny_settings(text), tmp_path / "file")


def test_a_failing_replacement_leaves_the_old_model(text, registry, monkeypatch):
    add_tiny("tiny")
    before = snapshot(registry)
    with monkeypatch.context() as patch:
        patch.setattr(job, "model_card", full)
        with pytest.raises(SsdError, match="is full"):
            train_small(tiny_settings(text, steps=2), overwrite=True)
    assert snapshot(registry) == before
    train_small(tiny_settings(text, steps=2), overwrite=True)
    after = snapshot(registry)
    assert registry.find("tiny").manifest.metrics
    assert not set(after.items()) & set(before.items())


def test_names_that_are_taken_are_refused_before_anything_is_read(text, tmp_path):
    bundled = tmp_path / "bundled"
    (bundled / "starter").mkdir(parents=True)
    add_tiny("big")
    (bundled / "starter" / "ssd.json").write_bytes((Registry().models / "big" / "ssd.json").read_bytes())
    registry = Registry(bundled=bundled)
    with pytest.raises(UsageError, match="comes with ssd"):
        train_small(tiny_settings(text, name="starter"), registry=registry, overwrite=True)
    with pytest.raises(UsageError, match="Pass --overwrite"):
        train_small(tiny_settings(text, name="big"), registry=registry)
    (registry.models / "big" / "ssd.json").write_text("{}")
    with pytest.raises(UsageError, match="Pass --overwrite"):
        train_small(tiny_settings(text, name="big"), registry=registry)
    assert not (registry.home / "training").exists()


def test_a_core_that_is_none_is_refused(text, registry):
    add_tiny("big")
    add_tiny("mail", kind="small", core="big")
    with pytest.raises(UsageError, match="'mail' is a small model, not a core"):
        train_small(small_settings(text, core="mail"))
    with pytest.raises(NoSuchModel):
        train_small(small_settings(text, core="nobody"))
    assert_no_workspace(registry)


def test_without_a_core_a_small_model_is_made_for_the_default_one(text, registry):
    add_tiny("big")
    registry.set_default("big")
    assert train_small(small_settings(text, core="")).description.manifest.core == "big"
    assert 'for = "big"' in (registry.models / "notes" / "recipe.toml").read_text()


def test_two_trainings_of_one_name_cannot_run_at_once(text, registry):
    with claimed(registry, "tiny"), pytest.raises(SsdError, match="'tiny' is being trained by another process"):
        run(tiny_settings(text), registry.home)
    assert_no_workspace(registry)
    assert run(tiny_settings(text, steps=1), registry.home).trained.description.steps == 1


def test_a_base_is_linked(text, registry):
    add_tiny("big", process="simplex")
    add_tiny("general", 5, process="simplex", kind="small", core="big")
    train_small(small_settings(text, base="general", steps=1))
    assert registry.find("notes").manifest.base == "general"


@pytest.mark.parametrize("base", ["big", "masked-one"])
def test_a_base_that_does_not_fit_is_refused(base, text, registry):
    add_tiny("big", process="simplex")
    add_tiny("masked-one", 5, kind="small", core="big")
    with pytest.raises(UsageError, match=f"'{base}' is not a small model that fits the core 'big'"):
        train_small(small_settings(text, base=base))
    with pytest.raises(NoSuchModel):
        train_small(small_settings(text, base="nobody"))
    assert_no_workspace(registry)
