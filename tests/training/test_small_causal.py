"""Training a small causal model for a causal core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdcli.api import load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.errors import Interrupted, UsageError
from ssdcli.models.backbones.small_causal import SmallCausalLM
from ssdcli.registry.store import Registry
from ssdcli.training.causal_objective import SmallCausalObjective
from ssdcli.training.job import train_small
from ssdcli.training.prepare import prepare
from ssdcli.training.settings import TrainSettings
from tests.packed import batch, plain
from tests.pulled import add_causal
from tests.tiny import add_tiny
from tests.trainings import run, write_text


@pytest.fixture(autouse=True)
def _core():
    add_causal("core")


def settings_of(tmp_path: Path, **changes: Any) -> TrainSettings:
    data = tmp_path / "notes.txt"
    if not data.exists():
        write_text(data)
    shape = {"hidden": 32, "layers": 1, "context": 64, "causal": True}
    fields = {"core": "core", "name": "twin", "steps": 6, "checkpoint_seconds": 0.0, "batch_tokens": 128}
    return TrainSettings(**{"data": (str(data),), **fields, **shape, **changes})


def test_it_learns_the_text_joins_its_core_and_writes(tmp_path):
    trained = train_small(settings_of(tmp_path, steps=40, learning_rate=1e-2, batch_tokens=256))
    manifest = Registry().find("twin").manifest
    assert manifest.attention == "autoregressive"
    assert not manifest.reads_core
    assert manifest.origin is None
    core, small = trained.losses.sums[:, 0].sum(), trained.losses.sums[:, -1].sum()
    assert small < 0.8 * core
    assert trained.description.history[-1]["heldout"] < trained.description.history[0]["heldout"]
    drafted, plainly = (
        load("core", "twin").generate("the boiler", max_tokens=8, draft=draft, seed=1) for draft in (4, 0)
    )
    assert drafted.tokens == 8
    assert drafted.text == plainly.text


def test_its_loss_is_the_exact_code_length_of_a_text(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    network = prepared.model
    assert isinstance(network, SmallCausalLM)
    network.eval().requires_grad_(False)
    tokens = torch.from_numpy(prepared.store.train[:24].astype("int64"))[None]
    loss = SmallCausalObjective(network)(**batch(plain(tokens, 1), 0))
    exact = -CausalDenoiser(network, prepared.process).score(tokens).mean()
    assert float(loss) == pytest.approx(float(exact), abs=1e-4)


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    settings = settings_of(tmp_path)
    whole = run(replace(settings, name="whole"), Registry().home)
    with pytest.raises(Interrupted):
        run(replace(settings, name="cut"), Registry().home, stop_after=3)
    resumed = run(replace(settings, name="cut"), Registry().home)
    assert resumed.steps == [4, 5, 6]
    assert resumed.state["model.safetensors"] == whole.state["model.safetensors"]


def test_another_training_begins_from_it(tmp_path):
    train_small(settings_of(tmp_path))
    shapeless = {"hidden": None, "layers": None, "context": None, "causal": False}
    train_small(settings_of(tmp_path, name="more", init="twin", **shapeless))
    assert Registry().find("more").manifest.attention == "autoregressive"


def test_what_cannot_be_is_refused(tmp_path):
    add_tiny("diffusion", 3)
    with pytest.raises(UsageError, match="no causal language model"):
        train_small(settings_of(tmp_path, core="diffusion"))
    for changes in ({"reads_core": True}, {"init": "core"}, {"lora": 4}, {"distill": "core"}, {"gap_share": 0.5}):
        with pytest.raises(UsageError, match=r"with|--causal|was given"):
            settings_of(tmp_path, **changes)
    with pytest.raises(UsageError, match="for a causal core"):
        settings_of(tmp_path, core="none")
    train_small(settings_of(tmp_path))
    shapeless = {"hidden": None, "layers": None, "context": None, "causal": False}
    with pytest.raises(UsageError, match="small causal"):
        train_small(settings_of(tmp_path, name="more", init="twin", lora=4, **shapeless))
