"""Training an adapter of a causal core, and writing with it in the core's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdcli.api import choose, load
from ssdcli.data.windows import Corpus, Windows, WindowShape
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.errors import Interrupted, SsdError, UsageError
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import alone
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.blend import Blend
from ssdcli.generation.loaded_model import open_model
from ssdcli.machine.placement import Placement
from ssdcli.models.backbones.tuned_core import TunedCore
from ssdcli.models.lora import WEIGHTS
from ssdcli.models.memory.recall_denoiser import RecallDenoiser
from ssdcli.registry.store import Registry
from ssdcli.training.assessment import measured_texts
from ssdcli.training.causal_objective import Borders, CausalObjective
from ssdcli.training.job import Watcher, train_small
from ssdcli.training.prepare import prepare
from ssdcli.training.remember import update_memory
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
        for number in range(8):
            write_text(data / f"{number}.txt", 200, number)
    fields = {"core": "core", "name": "tuned", "lora": 4, "steps": 6, "batch_tokens": 128, "context": 32}
    return TrainSettings(**{"data": (str(data),), "heldout": 0.3, "checkpoint_seconds": 0.0, **fields, **changes})


def names(*given: Any, **changes: Any) -> list[tuple[str, str]]:
    return [(member.name, member.role) for member in choose(*given, **changes).members]


def test_it_lowers_the_loss_and_takes_its_cores_place(tmp_path):
    trained = train_small(settings_of(tmp_path, steps=40, learning_rate=1e-2))
    entry = Registry().find("tuned")
    assert (entry.manifest.kind, entry.manifest.attention, entry.manifest.base) == ("adapter", "autoregressive", "core")
    assert sorted(path.name for path in entry.folder.glob("*.safetensors")) == [WEIGHTS, "memory.recall.safetensors"]
    core, small = trained.losses.sums[:, 0].sum(), trained.losses.sums[:, -1].sum()
    assert small < 0.8 * core
    assert names(None, ["tuned"]) == [("tuned", "core"), ("tuned:memory", "memory")]
    assert names(None, ["tuned"], context=True) == [("context", "small"), ("tuned:memory", "memory")]
    result = load(None, ["tuned"]).generate("the boiler", max_tokens=8)
    assert result.core == "tuned"
    assert [one.name for one in result.members] == ["tuned", "tuned:memory"]


def test_with_a_weight_or_beside_another_small_model_it_joins_the_core(tmp_path):
    train_small(settings_of(tmp_path))
    add_tiny("mail", 3, kind="small", core="core", weight=0.2)
    assert names(None, {"tuned": 0.5})[:2] == [("core", "core"), ("tuned", "small")]
    assert {"core", "tuned", "mail"} <= {name for name, _ in names(None, ["tuned", "mail"])}
    for members in ({"tuned": 0.5}, ["tuned", "mail"]):
        assert load(None, members).generate("the boiler", max_tokens=4).tokens > 0


def test_its_predictions_are_those_that_it_was_trained_to_make(tmp_path):
    """Once registered, its matrices are added to those of the core, without peft."""
    settings = settings_of(tmp_path, steps=20, learning_rate=1e-2)
    trained = train_small(settings)
    texts = measured_texts(prepare(replace(settings, name="again"), Registry()))
    (member,) = load("none", ["tuned"]).members
    found = code_lengths([member], texts, [alone(0, 1)], CodeSettings())
    assert found.sums[:, 0] == pytest.approx(trained.losses.sums[:, -1], rel=0.01)
    assert found.sums.sum() < 0.9 * trained.losses.sums[:, 0].sum()


def test_its_memory_recalls_by_its_own_states_and_keeps_doing_so(tmp_path):
    settings = settings_of(tmp_path, steps=20, learning_rate=1e-2)
    train_small(settings)
    _, memory = load(None, ["tuned"]).members
    assert isinstance(memory.model.denoiser, RecallDenoiser)
    keys = memory.model.denoiser.memory.recall.keys
    write_text(Path(settings.data[0]) / "new.txt", 200, 99)
    update_memory("tuned", settings.data)
    writer = load(None, ["tuned"])
    _, updated = writer.members
    assert len(updated.model.denoiser.memory.recall.keys) > len(keys)
    assert writer.generate("the boiler", max_tokens=4).tokens > 0
    apart = load("core", ["tuned:memory"]).members[1]  # beside another core it looks up
    assert not isinstance(apart.model.denoiser, RecallDenoiser)


def test_a_memory_that_it_gets_later_joins_it_and_changes_no_other_gate(tmp_path):
    settings = settings_of(tmp_path, memory=False)
    train_small(settings)
    assert names(None, ["tuned"]) == [("tuned", "core")]
    for _ in range(2):
        update_memory("tuned", settings.data)
        assert names(None, ["tuned"]) == [("tuned", "core"), ("tuned:memory", "memory")]
        assert [gate.members for gate in Registry().find("tuned").manifest.joint_gates] == [("core", "memory")]


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_an_adapter_of_other_layers_is_refused(tmp_path, dtype):
    train_small(settings_of(tmp_path))
    path = Registry().find("tuned").folder / WEIGHTS
    moved = {name.replace("layers.0", "layers.9"): value for name, value in load_file(path).items()}
    save_file(moved, path)
    with pytest.raises(SsdError, match="tuned cannot be read: its base has other layers"):
        load(None, ["tuned"], placement=Placement(dtype=dtype))


def test_contrast_compares_it_with_its_core(tmp_path):
    train_small(settings_of(tmp_path))
    found = names(None, ["tuned"], blend=Blend(rule="contrast"))
    assert found == [("core", "core"), ("tuned", "small"), ("core, base of tuned", "base")]


def test_untrained_it_is_its_core(tmp_path):
    prepared = prepare(settings_of(tmp_path), Registry())
    assert isinstance(prepared.model, TunedCore)
    tokens = torch.tensor([[5, 9, 200, 31]])
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    states = prepared.model.eval().states(tokens, torch.arange(4)[None], mask)
    core = open_model(Registry().find("core")).denoiser
    log_p = prepared.model.logits(states).log_softmax(-1)
    torch.testing.assert_close(
        log_p, core.log_p(core.states(tokens)), atol=2e-2, rtol=2e-2
    )  # bfloat16 where it is fast


def test_its_loss_is_the_code_length_of_each_document_alone(tmp_path):
    """Nothing is seen of other texts in the window, and the opening is the core's."""
    prepared = prepare(settings_of(tmp_path, heldout=0.01), Registry())
    store = prepared.store
    lengths = [stop - start for start, stop, _ in store.train_documents]
    window = sum(lengths) + 2 * len(lengths)
    ids = SampledIds(torch.arange(VOCABULARY), VOCABULARY, 0)
    objective = CausalObjective(prepared.model.eval(), ids, Borders(prepared.opening, prepared.end))
    sample = Windows(Corpus.of(store), WindowShape(window, 1), 0, 1)[0]
    columns = {name: column[None] for name, column in sample["columns"].items()}
    with torch.no_grad():
        loss = float(objective(columns, torch.tensor([0])))
    model = open_model(Registry().find("core"))
    texts = [
        ScoredText([prepared.opening, *store.train[start:stop].tolist(), prepared.end], 1)
        for start, stop, _ in store.train_documents
    ]
    member = Member("core", model, Constant(1.0), "core")
    found = code_lengths([member], texts, [alone(0, 1)], CodeSettings())
    assert loss == pytest.approx(found.sums.sum() / found.tokens.sum(), rel=0.02)


def test_a_resumed_training_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    settings = settings_of(tmp_path)
    whole = run(replace(settings, name="whole"), Registry().home)
    with pytest.raises(Interrupted):
        run(replace(settings, name="cut"), Registry().home, stop_after=3)
    resumed = run(replace(settings, name="cut"), Registry().home)
    assert resumed.steps == [4, 5, 6]
    assert resumed.state["model.safetensors"] == whole.state["model.safetensors"]


def test_resumed_with_more_steps_it_reads_the_text_again(tmp_path):
    """What it made of the text before those steps is kept only where none are taken."""
    stops = []

    def read(steps, *, stop):
        seen = []
        watcher = Watcher(
            on_reading=lambda done, _: seen.append(done),
            on_comparing=lambda *_: stops.append(stop),
            wants_stop=lambda: any(stops),
        )
        stops.clear()
        if stop:
            with pytest.raises(Interrupted):
                train_small(settings_of(tmp_path, steps=steps), watcher)
        else:
            train_small(settings_of(tmp_path, steps=steps), watcher)
        return bool(seen)

    assert read(4, stop=True)
    assert not read(4, stop=True)
    assert read(6, stop=False)


def test_what_cannot_be_is_refused(tmp_path):
    for changes in ({"size": "nano"}, {"reads_core": True}, {"distill": "core"}, {"base": "other"}):
        with pytest.raises(UsageError, match="an adapter of the core has no use for it"):
            settings_of(tmp_path, **changes)
    for changes in ({"gap_share": 0.5}, {"block_size": 12}):
        with pytest.raises(UsageError, match="predicts the next token alone"):
            train_small(settings_of(tmp_path, **changes))
    add_tiny("diffusion", 3)
    with pytest.raises(UsageError, match="--lora was given, but --init was not"):
        train_small(settings_of(tmp_path, core="diffusion"))
    with pytest.raises(UsageError, match="--lora 200 is too large for 'core'"):
        train_small(settings_of(tmp_path, lora=200))
