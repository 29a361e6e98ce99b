"""Training a small model that reads a causal core."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ssdcli.api import load
from ssdcli.data.store_side import StoreSide
from ssdcli.data.token_store import TokenStore
from ssdcli.errors import Interrupted, NoSuchModel, SsdError, UsageError
from ssdcli.models.backbones.side_network import SideNetwork
from ssdcli.registry.store import Registry
from ssdcli.training import core_states
from ssdcli.training.core_states import CoreStates, CoreTexts, StateSamples, read_passages
from ssdcli.training.draft_heads import train_head
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.prepare import prepare
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import resumed
from tests.pulled import add_causal
from tests.tiny import add_tiny
from tests.trainings import run, write_text

MANY = 1 << 30  # tokens of a text for whose states there is no room in 16 bits


@pytest.fixture(autouse=True)
def _core():
    add_causal("core")


def settings_of(tmp_path: Path, **changes: Any) -> TrainSettings:
    data = tmp_path / "notes.txt"
    if not data.exists():
        write_text(data)
    fields = {"core": "core", "name": "side", "steps": 6, "checkpoint_seconds": 0.0, "batch_tokens": 128}
    return TrainSettings(**{"data": (str(data),), **fields, **changes})


def many_texts(tmp_path: Path) -> str:
    """A folder of forty texts."""
    data = tmp_path / "many"
    data.mkdir()
    for number in range(40):
        write_text(data / f"{number}.txt", 100, number)
    return str(data)


def test_it_is_the_default_beside_a_causal_core_and_lowers_the_loss(tmp_path):
    trained = train_small(settings_of(tmp_path, steps=60, learning_rate=1e-2, batch_tokens=256))
    manifest = Registry().find("side").manifest
    assert manifest.reads_core
    assert manifest.architecture == "SideNetwork"
    assert manifest.base_weights == Registry().find("core").manifest.weights_digest
    core, small = trained.losses.sums[:, 0].sum(), trained.losses.sums[:, -1].sum()
    assert small < 0.8 * core
    assert trained.description.history[-1]["heldout"] < trained.description.history[0]["heldout"]
    assert load(None, "side").generate("the boiler", max_tokens=8).tokens > 0


@pytest.mark.parametrize("changes", [{"size": "nano"}, {"hidden": 32, "layers": 1}, {"reads_core": False}])
def test_a_shape_or_the_flag_asks_for_a_model_with_embeddings_of_its_own(tmp_path, changes):
    settings = settings_of(tmp_path, **{"context": 64, **changes})
    prepared = prepare(settings, Registry())
    assert prepared.model.config.architecture != "SideNetwork"


def test_beside_the_flag_a_width_is_that_of_the_layer_that_reads_the_core(tmp_path):
    assert prepare(settings_of(tmp_path, hidden=32, context=64), Registry()).model.config.architecture != "SideNetwork"
    network = prepare(settings_of(tmp_path, hidden=32, reads_core=True, name="wide"), Registry()).model
    assert (type(network), network.config.hidden) == (SideNetwork, 32)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--size was given"):
        settings_of(tmp_path, reads_core=True, size="nano")
    add_tiny("diffusion", 3)
    with pytest.raises(UsageError, match="no causal language model"):
        train_small(settings_of(tmp_path, core="diffusion", reads_core=True))
    for changes in ({"gap_share": 0.5}, {"block_size": 12}):  # which it would silently ignore
        with pytest.raises(UsageError, match="predicts the next token alone") as refused:
            train_small(settings_of(tmp_path, **changes))
        assert "--no-reads-core" in refused.value.remedy


def test_the_optimizer_that_is_asked_for_is_taken(tmp_path):
    assert prepare(settings_of(tmp_path), Registry()).settings.optimizer == "adamw"
    trained = train_small(settings_of(tmp_path, name="muon", optimizer="muon", gap_share=0.0))
    assert trained.description.settings["optimizer"] == "muon"


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    settings = settings_of(tmp_path)
    whole = run(replace(settings, name="whole"), Registry().home)
    with pytest.raises(Interrupted):
        run(replace(settings, name="cut"), Registry().home, stop_after=3)
    resumed = run(replace(settings, name="cut"), Registry().home)
    assert resumed.steps == [4, 5, 6]
    assert resumed.state["model.safetensors"] == whole.state["model.safetensors"]


def test_a_training_that_was_stopped_before_its_first_step_survives_a_refusal(tmp_path):
    settings, registry = settings_of(tmp_path), Registry()
    with pytest.raises(Interrupted):
        train_small(settings, Watcher(wants_stop=lambda: True))
    registry.rename("core", "elsewhere")
    with pytest.raises(NoSuchModel):
        train_small(settings)
    registry.rename("elsewhere", "core")
    assert run(resumed(registry, "side", {}), registry.home).steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("changes", [{}, {"lora": 4, "context": 64}])
def test_a_training_that_an_older_version_began_is_resumed(tmp_path, changes):
    settings, registry = settings_of(tmp_path, **changes), Registry()
    with pytest.raises(Interrupted):
        run(settings, registry.home, stop_after=3)
    job = registry.workspace("side") / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"gap_share": 0.25, "block_size": 12}))
    assert run(resumed(registry, "side", {}), registry.home).steps == [4, 5, 6]


def test_the_core_reads_each_text_once_and_every_token_that_counts_is_a_target(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    states = CoreStates.write(prepared.workspace, prepared.model.core, texts.batches(), lambda _: False)
    assert states.documents == len(prepared.store.train_documents)
    expected = [
        token
        for start, stop, _ in prepared.store.train_documents
        for token in [*prepared.store.train[start:stop], prepared.end]
    ]
    assert sorted(states.targets.tolist()) == sorted(map(int, expected))
    again = CoreStates.open(prepared.workspace)
    assert again is not None
    assert np.array_equal(again.states, states.states)


def test_passages_of_different_lengths_get_the_states_that_they_get_alone(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    given = [passage for batch, _ in texts.batches() for passage in batch]
    together, targets = read_passages(prepared.model.core, given)
    alone = [read_passages(prepared.model.core, [passage]) for passage in given]
    assert torch.equal(targets, torch.cat([own for _, own in alone]))
    torch.testing.assert_close(together, torch.cat([own for own, _ in alone]), rtol=0.05, atol=0.05)


def test_an_epoch_of_samples_holds_every_position_once(tmp_path):
    places = 5 * StateSamples.length
    states = CoreStates(np.arange(places, dtype=np.int16)[:, None], np.arange(places), np.arange(places), 1, 1)
    samples = StateSamples(states, seed=3, samples=100)
    for epoch in range(2):
        seen = torch.cat([samples[5 * epoch + i]["columns"]["targets"] for i in range(5)])
        assert sorted(seen.tolist()) == list(range(places))
    assert torch.equal(samples[7]["columns"]["targets"], StateSamples(states, 3, 9)[7]["columns"]["targets"])


def test_a_reading_that_is_stopped_for_lack_of_time_leaves_whole_states(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    states = CoreStates.write(prepared.workspace, prepared.model.core, texts.batches(), lambda _: True)
    assert len(states.targets) == len(states.states)


@pytest.mark.parametrize(("passes", "tokens"), [(1, 0), (2, 0), (2, MANY)])
def test_an_interrupted_reading_goes_on_where_it_was(tmp_path, monkeypatch, passes, tokens):
    monkeypatch.setattr(core_states, "_TOGETHER", 64)
    prepared = prepare(settings_of(tmp_path), Registry())
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    whole = CoreStates.write(tmp_path, prepared.model.core, texts.batches(), lambda _: False, tokens)
    left = [passes]

    def interrupting(_: int) -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted("stopped", "Resume it.")
        return False

    folder = prepared.workspace
    with pytest.raises(Interrupted):
        CoreStates.write(folder, prepared.model.core, texts.batches(), interrupting, tokens)
    assert CoreStates.open(folder) is None
    with (folder / "core_states.bin").open("ab") as stream:
        stream.write(b"half a pass")
    read = []
    monkeypatch.setattr(core_states, "read_passages", lambda *given: read.append(1) or read_passages(*given))
    again = CoreStates.write(folder, prepared.model.core, texts.batches(), lambda _: False)
    assert len(read) == sum(1 for _ in texts.batches()) - passes - 1
    assert np.array_equal(again.states, whole.states)
    assert np.array_equal(again.targets, whole.targets)
    assert np.array_equal(again.places, whole.places)


def test_where_there_is_no_room_for_16_bits_the_lower_layers_take_8(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    core, size = prepared.model.core, prepared.model.core.width
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    exact = CoreStates.write(prepared.workspace, core, texts.batches(), lambda _: False)
    packed = CoreStates.write(tmp_path, core, texts.batches(), lambda _: False, MANY)
    rows = np.arange(len(exact.targets))
    assert np.array_equal(packed.targets, exact.targets)
    assert packed.states.shape[1] * 3 == exact.states.shape[1] * 2
    expected, found = exact.read(rows), packed.read(rows)
    assert torch.equal(found[:, :size], expected[:, :size])
    lower = functional.rms_norm(expected[:, size:].float().unflatten(1, (2, size)), (size,)).flatten(1)
    torch.testing.assert_close(found[:, size:].float(), lower, rtol=1 / 16, atol=2**-9)
    for columns in (slice(size), slice(size, None), slice(-size, None)):
        assert torch.equal(packed.read(rows[:5], columns), found[:5, columns])


def test_a_disk_that_is_too_small_for_the_states_is_left_as_it_was(tmp_path, monkeypatch):
    prepared = prepare(settings_of(tmp_path), Registry())
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)

    def full(_: int) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        CoreStates.write(tmp_path, prepared.model.core, texts.batches(), full)
    assert not list(tmp_path.glob("core_*"))


def leave_free(monkeypatch: pytest.MonkeyPatch, tokens: int, states: int = 10) -> None:
    """Let the disk have room for what the tiny core makes of so many tokens, and so many states be worth a training."""
    width = load("core").members[0].model.denoiser.backbone.width
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * tokens * (4 * width + 16)))
    monkeypatch.setattr(core_states, "_FEWEST", states)


@pytest.mark.parametrize("lora", [None, 4])
def test_a_disk_with_room_for_a_part_of_the_states_is_warned_of_and_keeps_these(tmp_path, monkeypatch, lora):
    monkeypatch.setattr(core_states, "_TOGETHER", 64)
    leave_free(monkeypatch, 2000)
    said, data = [], many_texts(tmp_path)
    watcher = Watcher(on_prepared=lambda report, _: said.extend(report))
    trained = train_small(settings_of(tmp_path, data=(data,), lora=lora), watcher)
    (line,) = [line for line in said if "room for what the core makes of 2,000 of" in line]
    assert "Free some space" in line
    (line,) = [line for line in trained.description.data_lines if "room on the disk, to read" in line]
    read = int(line.split(" to read ")[1].split(" of ")[0])
    assert 4 <= read <= 6  # of 366 tokens each


@pytest.mark.parametrize("changes", [{}, {"lora": 4}, {"draft_head": True}])
def test_a_disk_with_hardly_any_room_for_the_states_is_refused_at_once(tmp_path, monkeypatch, changes):
    leave_free(monkeypatch, 200, states=201)
    train = train_head if changes.get("draft_head") else train_small
    with pytest.raises(SsdError, match="has room for what the core makes of 200 of") as refused:
        train(settings_of(tmp_path, **changes))
    assert "set SSD_HOME" in refused.value.remedy
    assert not (Registry().home / "training" / "side").exists()


def test_a_disk_with_room_for_all_states_is_not_spoken_of(tmp_path, monkeypatch):
    prepared = prepare(settings_of(tmp_path), Registry())
    core, tokens = prepared.model.core, prepared.store.info.train.tokens
    leave_free(monkeypatch, tokens)
    assert core_states.remark_on_room(tmp_path, core, tokens) == []
    assert core_states.remark_on_room(tmp_path, core, tokens + 1) != []


def test_a_text_that_the_core_could_not_read_whole_is_said_to_be_so(tmp_path):
    data = many_texts(tmp_path)
    settings, times = settings_of(tmp_path, data=(data,), steps=None, minutes=1), count(step=9.0)
    trained = train_small(settings, clock=lambda: next(times))
    (line,) = [line for line in trained.description.data_lines if "had time" in line]
    assert line.endswith("drawn at random")


def test_a_small_model_whose_core_was_replaced_or_is_gone_is_refused(tmp_path):
    train_small(settings_of(tmp_path))
    registry = Registry()
    described = registry.find("side").folder / "ssd.json"
    fields = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps(fields | {"base_weights": "0" * 64}), encoding="utf-8")
    with pytest.raises(UsageError, match="its weights have changed"):
        load("core", "side")
    registry.remove("core")
    with pytest.raises(NoSuchModel, match="'side' is a small model that reads 'core'"):
        load("none", "side")


def test_a_conversation_is_learned_in_its_answers_alone(tmp_path):
    data = tmp_path / "talk.jsonl"
    texts = [write_text(tmp_path / f"{seed}.txt", 30, seed) for seed in range(8)]
    rows = [{"prompt": "the boiler is cold", "response": Path(text).read_text(encoding="utf-8")} for text in texts]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prepared = prepare(settings_of(tmp_path, data=(str(data),), heldout=0.3), Registry())
    store: TokenStore = prepared.store
    reading = CoreTexts(StoreSide.of(store, "train"), prepared.opening, prepared.end, 1024, seed=0)
    counted = [sum(passage.counted) for batch, _ in reading.batches() for passage in batch]
    written = [int((store.train_marks[start:stop] == 1).sum()) for start, stop, _ in store.train_documents]
    assert sorted(counted) == sorted(written)
