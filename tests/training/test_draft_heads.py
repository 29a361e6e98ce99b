"""Training a draft head on what a causal core makes of text, and of what it writes itself."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ssdcli.api import load
from ssdcli.cli import app
from ssdcli.data.store_side import StoreSide
from ssdcli.errors import Interrupted, UsageError
from ssdcli.evaluation.audit.audit import audit
from ssdcli.models.backbones.draft_head import DraftHead
from ssdcli.models.general_heads import general_head
from ssdcli.registry.archive import export_model, import_model
from ssdcli.registry.manifest import WEIGHTS, write_manifest
from ssdcli.registry.store import Registry
from ssdcli.text.chat_template import Chat
from ssdcli.text.codec import Codec
from ssdcli.text.openings import TextFormat
from ssdcli.text.tokenizer import load_tokenizer
from ssdcli.training.core_states import CoreStates, CoreTexts, RunSamples, read_passages, run_starts
from ssdcli.training.draft_heads import train_head
from ssdcli.training.drafting_objective import AHEAD, DraftingObjective
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.own_text import OwnText
from ssdcli.training.prepare import prepare
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal, add_core
from tests.tiny import add_tiny
from tests.trainings import write_text


@pytest.fixture(autouse=True)
def _core():
    add_causal("core")


def settings_of(tmp_path: Path, **changes: Any) -> TrainSettings:
    data = tmp_path / "general.txt"
    if not data.exists():
        write_text(data, 400)
    fields = {
        "core": "core",
        "name": "head",
        "steps": 6,
        "checkpoint_seconds": 0.0,
        "draft_head": True,
        "batch_tokens": 128,
    }
    return TrainSettings(**{"data": (str(data),), **fields, **changes})


def test_a_head_is_registered_and_its_core_drafts_by_it(tmp_path):
    trained = train_head(settings_of(tmp_path, steps=80, learning_rate=1e-2, batch_tokens=256))
    manifest = Registry().find("head").manifest
    assert (manifest.kind, manifest.core, manifest.attention) == ("head", "core", "none")
    assert manifest.base_weights == Registry().find("core").manifest.weights_digest
    assert manifest.text["tokens"] > 1500  # what the core read, and what it wrote
    writer = load("core")
    found = general_head(writer.members[0].model.denoiser.backbone)
    assert found is not None
    assert trained.right[0] > 0.4  # of some 300 ids
    written = writer.generate("the boiler", max_tokens=48, temperature=0.0)
    assert written.accepted > 1
    assert written.text == writer.generate("the boiler", max_tokens=48, temperature=0.0, draft=0).text


def test_the_newest_head_that_fits_is_taken(tmp_path):
    core = load("core").members[0].model.denoiser.backbone
    for seed, name in enumerate(("first", "last", "between")):
        train_head(settings_of(tmp_path, name=name, seed=seed))
        manifest = Registry().find(name).manifest
        day = {"first": 1, "last": 3, "between": 2}[name]
        write_manifest(Registry().find(name).folder, replace(manifest, created=f"2026-01-0{day}T00:00:00+00:00"))
    found, last = general_head(core), general_head(core, [Registry().find("last").folder / WEIGHTS])
    assert found is not None
    assert last is not None
    assert torch.equal(found[0].scale, last[0].scale)
    assert not torch.equal(found[0].scale, torch.ones_like(found[0].scale))
    for name in ("first", "last", "between"):
        Registry().remove(name)
    assert general_head(core) is None


def watch(stop_after: int | None = None) -> tuple[list[int], Watcher]:
    steps: list[int] = []
    return steps, Watcher(
        on_progress=lambda progress: steps.append(progress.step), wants_stop=lambda: steps[-1:] == [stop_after]
    )


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    settings = settings_of(tmp_path)
    train_head(replace(settings, name="whole"))
    with pytest.raises(Interrupted, match="--resume --name cut"):
        train_head(replace(settings, name="cut"), watch(stop_after=3)[1])
    assert "cut" not in [entry.name for entry in Registry().entries()]
    steps, watcher = watch()
    train_head(replace(settings, name="cut"), watcher)
    assert steps == [4, 5, 6]
    whole, cut = (Registry().find(name).manifest for name in ("whole", "cut"))
    assert whole.files["model.safetensors"] == cut.files["model.safetensors"]
    assert not (Registry().home / "training" / "cut").exists()


@pytest.mark.parametrize("reads", [train_head, train_small])
def test_a_core_that_was_replaced_ends_a_training_on_its_states(tmp_path, reads):
    settings = settings_of(tmp_path, draft_head=reads is train_head)
    with pytest.raises(Interrupted):
        reads(settings, watch(stop_after=3)[1])
    add_core("core", attention="autoregressive", shift=True)  # in bfloat16, so that its weights are others
    with pytest.raises(UsageError, match="the weights of 'core' have changed since this training began"):
        reads(settings)


def test_what_cannot_be_is_refused(tmp_path):
    add_tiny("diffusion", 3)
    with pytest.raises(UsageError, match="no causal language model on this machine"):
        train_head(settings_of(tmp_path, core="diffusion"))
    assert not (Registry().home / "training" / "head").exists()
    with pytest.raises(UsageError, match="a draft head drafts for a core"):
        settings_of(tmp_path, core="none")
    for changes in ({"size": "nano"}, {"canaries": 8}, {"init": "core"}, {"gap_share": 0.5}):
        with pytest.raises(UsageError, match=r"a draft head \(--recipe base or --draft-head\) has no use for it"):
            settings_of(tmp_path, **changes)


def test_a_head_is_no_model_that_writes_or_is_begun_from(tmp_path):
    train_head(settings_of(tmp_path))
    with pytest.raises(UsageError, match="'head' is a draft head, and only small models"):
        load("core", "head")
    with pytest.raises(UsageError, match="'head' is a draft head, which writes nothing by itself"):
        load("head")
    with pytest.raises(UsageError, match="'head' is a draft head, which predicts no text"):
        train_small(settings_of(tmp_path, name="x", draft_head=False, init="head"))
    with pytest.raises(UsageError, match="'head' is a draft head, not a core"):
        train_small(settings_of(tmp_path, name="x", draft_head=False, core="head"))
    with pytest.raises(UsageError, match="'head' is a draft head, which writes no text"):
        audit("head")


def test_a_head_is_shown_and_given_away(tmp_path, capsys):
    assert app.main(["train-small", *settings_of(tmp_path).data, "--recipe", "base", "--for", "core", "--name", "head",
                     "--steps", "6", "--json"]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert (facts["core"], facts["steps"], len(facts["right"])) == ("core", 6, AHEAD)
    assert app.main(["models", "show", "head"]) == 0
    shown = capsys.readouterr().out
    assert "head: a draft head for the core core" in shown
    assert f"draft 1  {facts['right'][0]:.0%}" in shown
    archive = io.BytesIO()
    export_model(Registry().find("head"), archive)
    archive.seek(0)
    copied = import_model(Registry(), archive, "it", name="copy")
    assert copied.manifest.weights_digest == Registry().find("head").manifest.weights_digest


def own_text(tmp_path: Path, chat: Chat | None = None) -> tuple[OwnText, CoreTexts]:
    prepared = prepare(settings_of(tmp_path, draft_head=False), Registry())
    codec = Codec(load_tokenizer(Registry().find("core").folder, "core"))
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, 64, seed=0)
    own = OwnText(prepared.model.core, codec, TextFormat(prepared.opening, (prepared.end,), chat))  # type: ignore[union-attr]
    return own, texts


def test_after_each_pass_the_core_writes_on_from_what_it_read(tmp_path):
    own, texts = own_text(tmp_path)
    (read, _), (written, _), *_ = own.batches(texts)
    assert [one.tokens for one in read] == [one.tokens for one in next(iter(texts.batches()))[0]]
    text = [token for one in read for token in one.tokens]
    for one in written:
        prompt = one.counted.index(True)
        assert one.tokens[0] == own.form.opening
        assert any(text[at : at + prompt] == one.tokens[1 : 1 + prompt] for at in range(len(text)))
        assert all(one.counted[prompt:])
        assert own.form.ends[0] not in one.tokens[1 + prompt : -1]
    again = own_text(tmp_path)
    assert [one.tokens for one in list(again[0].batches(again[1]))[1][0]] == [one.tokens for one in written]
    states, targets = read_passages(own.core, written)
    chances = own.core.logits(states).softmax(-1).gather(1, targets[:, None])
    assert float(chances.mean()) > 3 / own.core.rows  # drawn from what it predicts


def test_every_second_time_a_chat_template_asks_it(tmp_path):
    write_text(tmp_path / "general.txt", 800)
    template = "{% for m in messages %}<<{{ m['content'] }}>>{% endfor %}"
    own, texts = own_text(tmp_path, Chat("core", template, {}))
    written = [batch for number, (batch, _) in enumerate(own.batches(texts)) if number % 2]
    assert len(written) > 1
    for number, batch in enumerate(written):
        asked = ["<<" in own.codec.decode(one.tokens) for one in batch]
        assert all(asked) if number % 2 else not any(asked)


def test_runs_stay_within_a_text():
    places = np.array([4, 5, 6, 9, 10, 11, 12, 20])
    assert run_starts(places, 2).tolist() == [0, 3, 4]
    assert run_starts(places, 3).tolist() == [3]
    assert run_starts(places[:2], 3).tolist() == []
    states = CoreStates(np.arange(8, dtype=np.int16)[:, None], np.arange(8) * 10, places, 1, 1)
    columns: Any = RunSamples(states, 0, 4, 2)[1]["columns"]
    assert set(map(tuple, columns["targets"].tolist())) == {(0, 10), (30, 40), (40, 50)}
    assert columns["states"].shape == (RunSamples.length, 3, 1)


def test_the_loss_is_the_cross_entropy_with_what_the_core_predicts(tmp_path):
    core = load("core").members[0].model.denoiser.backbone
    core.tap(core.middle_layers)
    head = DraftHead(core.width, 3, torch.arange(0, core.rows - 1, 2))
    states, tokens = torch.randn(5, 1 + AHEAD, 3 * core.width), torch.randint(core.rows - 1, (5, AHEAD))
    guess = head.begin(states[:, 0], core.embed(tokens[:, 0]))
    said = core.scores_of(head.as_state(guess), head.ids)
    wanted = core.scores_of(states[:, 1, : core.width], head.ids).softmax(-1)
    expected = functional.cross_entropy(said, wanted)
    objective = DraftingObjective(head, core, 0, lambda _: 1)
    columns = {"states": states[None], "targets": tokens[None]}
    torch.testing.assert_close(objective(columns, torch.tensor([7])), expected)
    more = DraftingObjective(head, core, 0, lambda _: AHEAD)(columns, torch.tensor([7]))
    assert more > expected
