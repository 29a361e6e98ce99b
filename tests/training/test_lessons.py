"""Adapters of causal cores that learn from the core as it reads their text."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from ssdcli.cli.flags import resolve
from ssdcli.data.store_side import StoreSide
from ssdcli.data.windows import Corpus, Windows, WindowShape
from ssdcli.errors import Interrupted, UsageError
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.registry.store import Registry
from ssdcli.training import lessons as writing
from ssdcli.training.causal_objective import Borders, TaughtObjective
from ssdcli.training.core_states import CoreTexts
from ssdcli.training.job import train_small
from ssdcli.training.lessons import CUE, WRITTEN, Lessons, LessonWindows, read_lessons
from ssdcli.training.prepare import Prepared, prepare
from ssdcli.training.settings import TrainSettings
from ssdcli.training.side_objective import SampledIds
from tests.pulled import add_causal
from tests.tiny import VOCABULARY, add_tiny
from tests.trainings import run, write_text


@pytest.fixture(autouse=True)
def _core():
    add_causal("core")


def settings_of(tmp_path: Path, **changes: Any) -> TrainSettings:
    data = tmp_path / "notes"
    if not data.exists():
        data.mkdir()
        for number in range(4):
            write_text(data / f"{number}.txt", 60, number)
    fields = {"core": "core", "name": "taught", "lora": 4, "steps": 4, "batch_tokens": 64, "context": 32}
    fields |= {"data": (str(data),), "heldout": 0.3, "checkpoint_seconds": 0.0, "distill_context": True}
    return TrainSettings(**{**fields, **changes})


def written(prepared: Prepared) -> Lessons:
    found = read_lessons(prepared, lambda _: False)
    assert found is not None
    return found


def objective_of(prepared: Prepared, share: float = 0.5) -> TaughtObjective:
    assert isinstance(prepared.model, TunedCore)
    ids = SampledIds(torch.arange(VOCABULARY), VOCABULARY, 0)
    return TaughtObjective(prepared.model.eval(), ids, Borders(prepared.opening, prepared.end), share)


def test_the_teacher_is_the_core_that_reads_the_passage_and_the_untrained_student_the_core_alone(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    core, found = prepared.model.core, written(prepared)
    between = prepared.tokenizer.encode("\n\n", add_special_tokens=False).ids
    room = core.context - 1 - len(between) - CUE - WRITTEN
    texts = CoreTexts(StoreSide.of(prepared.store, "train"), prepared.opening, prepared.end, room, 0)
    tokens = found.tokens[0].tolist()
    passages = [passage.tokens for number in range(len(texts.side.documents)) for passage in texts.passages(number)]

    @torch.no_grad()
    def predicted(*before: int) -> torch.Tensor:
        """What the core predicts of what was written after the opening, a passage, and the cue."""
        ids = torch.tensor([[prepared.opening, *before, *tokens[1:-1]]])
        states = core.encode(core.embed(ids), torch.arange(ids.shape[1])[None], None, None)
        return core.logits(states)[0, -WRITTEN:].clamp(min=-1e4).log_softmax(-1)

    taught = core.logits(found.states[0]).clamp(min=-1e4).log_softmax(-1)
    kinds = [[token for token in own[1:] if token != prepared.end] for own in passages]
    errors = [float((predicted(*own, *between) - taught).exp().sub(1).abs().mean()) for own in kinds]
    assert min(errors) < 0.05  # of its own passage, in bfloat16
    assert sorted(errors)[1] > 0.1
    with torch.no_grad():
        divergence = float(objective_of(prepared).divergence(found.tokens[:1], found.states[:1]))
    alone = functional.kl_div(predicted(), taught, log_target=True, reduction="sum") / WRITTEN
    assert divergence == pytest.approx(float(alone), rel=0.05)
    assert divergence > 0.05


def test_lessons_begin_as_sentences_of_the_text_do_and_do_not_end(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    found, text = written(prepared), prepared.store.train.tolist()
    assert found.tokens.shape[1] == 1 + CUE + WRITTEN
    assert found.states.shape[:2] == (len(found.tokens), WRITTEN)
    starts = {tuple(text[place : place + CUE]) for place in range(len(text))}
    assert {tuple(cue) for cue in found.tokens[:, 1 : 1 + CUE].tolist()} <= starts
    assert (found.tokens[:, 0] == prepared.opening).all()
    assert not (found.tokens[:, 1:] == prepared.end).any()


def test_long_documents_are_read_in_passages_and_the_lessons_are_bounded(tmp_path, monkeypatch):
    prepared = prepare(settings_of(tmp_path), Registry())
    room, reads = prepared.model.config.context - 1 - CUE - WRITTEN, []
    of = writing.LessonWriter.of

    def noting(self: Any, opening: int, passage: list[int], random: torch.Generator) -> Lessons:
        reads.append(len(passage))
        return of(self, opening, passage, random)

    monkeypatch.setattr(writing.LessonWriter, "of", noting)
    whole = written(prepared)
    assert len(reads) > len(prepared.store.train_documents)
    assert max(reads) < room
    monkeypatch.setattr(writing, "_MOST_BYTES", 1)
    (prepared.workspace / "lessons.safetensors").unlink()
    assert len(written(prepared).tokens) < len(whole.tokens)


def test_the_loss_that_is_noted_is_that_of_the_text_and_the_gradient_that_of_both(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    corpus, shape = Corpus.of(prepared.store), WindowShape(32, 1)
    taught = LessonWindows(corpus, shape, 0, 9, written(prepared))
    sample, plain = taught[3], Windows(corpus, shape, 0, 9)[3]
    assert all(torch.equal(sample["columns"][name], column) for name, column in plain["columns"].items())
    columns = {name: column[None] for name, column in sample["columns"].items()}
    values, slopes = [], []
    for share in (0.0, 0.5, 1.0):
        objective = objective_of(prepared, share)
        objective.zero_grad()
        loss = objective(columns, torch.tensor([3]))
        loss.backward()
        values.append(float(loss.detach()))
        slopes.append(torch.cat([w.grad.flatten() for w in objective.parameters() if w.grad is not None]).float())
    assert values == pytest.approx([values[0]] * 3, rel=1e-3)
    torch.testing.assert_close(
        slopes[1], (slopes[0] + slopes[2]) / 2, rtol=0.1, atol=0.02 * float(slopes[2].abs().max())
    )
    assert not torch.allclose(slopes[0], slopes[2], rtol=0.1)


def test_a_training_brings_the_core_alone_nearer_to_the_core_that_reads(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    found, objective = written(prepared), objective_of(prepared)
    weights = [weight for weight in objective.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    losses = []
    for _ in range(30):
        loss = objective.divergence(found.tokens[:8], found.states[:8])
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one_and_another_than_that_of_the_text(tmp_path):
    settings, home = settings_of(tmp_path), Registry().home
    whole = run(replace(settings, name="whole"), home)
    with pytest.raises(Interrupted):
        run(replace(settings, name="cut"), home, stop_after=2)
    kept = (home / "training" / "cut" / "lessons.safetensors").stat().st_mtime_ns
    with pytest.raises(Interrupted):
        run(replace(settings, name="cut"), home, stop_after=3)
    assert (home / "training" / "cut" / "lessons.safetensors").stat().st_mtime_ns == kept
    resumed = run(replace(settings, name="cut"), home)
    assert resumed.steps == [4]
    assert resumed.state["model.safetensors"] == whole.state["model.safetensors"]
    text = run(replace(settings, name="text", distill_context=False), home)
    assert text.state["model.safetensors"] != whole.state["model.safetensors"]


def test_the_recipe_in_the_folder_repeats_the_training(tmp_path):
    trained = train_small(settings_of(tmp_path, distill_weight=0.4))
    again = resolve(TrainSettings, {"data": [str(tmp_path / "notes")], "name": "again"}, trained.folder / "recipe.toml")
    assert (again.lora, again.distill_context, again.distill_weight) == (4, True, 0.4)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (trained.folder, train_small(again).folder)
    ]
    assert losses[0] == losses[1]


def test_what_cannot_teach_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no teacher") as refused:
        settings_of(tmp_path, lora=None)
    assert "--lora" in refused.value.remedy
    add_tiny("diffusion", 3)
    with pytest.raises(UsageError, match="--lora was given, but --init was not"):
        train_small(settings_of(tmp_path, core="diffusion"))
    (tmp_path / "short.jsonl").write_text(
        "".join(json.dumps({"text": "".join(word)}) + "\n" for word in product("abcdefgh", repeat=2))
    )
    with pytest.raises(UsageError, match="no document has the 4 tokens"):
        train_small(settings_of(tmp_path, data=(str(tmp_path / "short.jsonl"),)))
    add_causal("small", context=CUE + WRITTEN + 2)
    with pytest.raises(UsageError, match="has no room for a passage"):
        train_small(settings_of(tmp_path, core="small", context=16))
    assert list((Registry().home / "training").glob("[!.]*")) == []
