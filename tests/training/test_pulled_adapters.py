"""Adapters on pulled cores: what is trained, what stays as it is, what is loaded, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssdcli.api import load
from ssdcli.errors import Interrupted, NoSuchModel, SsdError, UsageError
from ssdcli.generation.selection import choose
from ssdcli.machine.placement import Placement
from ssdcli.models.initialization import Wanted, initialize
from ssdcli.models.loading import load_model
from ssdcli.models.lora import WEIGHTS
from ssdcli.registry.manifest import CONFIG
from ssdcli.registry.store import Registry
from ssdcli.training import assessment, job
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings
from tests.checkpoints import write_checkpoint
from tests.models.native_checkpoints import GLM4_MOE, LLAMA, QWEN2, ROBERTA
from tests.pulled import add_core
from tests.tiny import BLOCK, CONTEXT, VOCABULARY, add_tiny, tiny_tokenizer
from tests.trainings import run, write_text

Kind = Mapping[str, Any]

ROOM = {"max_position_embeddings": 2 * CONTEXT}
LLADA: Kind = {"native": LLAMA | ROOM}
DREAM: Kind = {"native": QWEN2 | ROOM, "shift": True, "late_ends": True}
WHOLE: Kind = {**LLADA, "dtype": torch.float32}
KINDS = pytest.mark.parametrize("kind", [LLADA, DREAM, WHOLE], ids=["llada", "dream", "float32"])
SUPPRESSED = (1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY))
IDS = torch.arange(3, 3 + 2 * BLOCK)[None]


@pytest.fixture(autouse=True)
def _measure_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assessment, "measuring_seconds", lambda _, exact=False: 0.3)


@pytest.fixture
def text(tmp_path) -> str:
    return write_text(tmp_path / "notes.txt")


def settings(text: str, **changes: Any) -> TrainSettings:
    fields: dict[str, Any] = {"core": "big", "name": "notes", "init": "big", "lora": 4, "steps": 2, "context": CONTEXT}
    fields |= {"batch_tokens": 128, "checkpoint_seconds": 1000.0, "learning_rate": 0.01}
    return TrainSettings(**{"data": (text,), **fields, **changes})


def predictions(model: Any) -> Tensor:
    """What a model expects in two blocks of text."""
    length = IDS.shape[1]
    mask, positions = torch.ones(1, 1, length, length, dtype=torch.bool), torch.arange(length)[None]
    with torch.no_grad():
        logits: Tensor = model.logits(model.encode(model.embed(IDS), positions, mask, None))
    return logits


def with_adapter(placement: Placement | None = None) -> Any:
    registry = Registry()
    folders = registry.find("big").folder, registry.find("notes").folder
    return load_model(folders[0], placement or Placement(), BLOCK, folders[1])


def without(kind: Kind) -> Any:
    """The core as a small model, and no adapter in it."""
    wanted = Wanted(VOCABULARY, SUPPRESSED, BLOCK, timed=False, self_conditioned=False, context=CONTEXT)
    return initialize(Registry().find("big").folder, wanted, kind.get("dtype", torch.bfloat16)).eval()


def digests() -> dict[str, str]:
    files = [path for path in Registry().find("big").folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@KINDS
def test_an_adapter_that_has_learned_nothing_is_the_adapted_core_bit_for_bit(kind, text, monkeypatch):
    add_core("big", **kind)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)
    train_small(settings(text))
    assert torch.equal(predictions(with_adapter()), predictions(without(kind)))


@KINDS
def test_training_an_adapter_changes_nothing_of_its_core(kind, text, monkeypatch):
    add_core("big", **kind)
    before, kept = digests(), {}
    monkeypatch.setattr(job, "assess", noting(kept, job.assess))
    train_small(settings(text))
    assert digests() == before
    frozen = {name.replace("base_layer.", ""): value for name, value in kept.items() if "lora_" not in name}
    base = without(kind).state_dict()
    assert frozen.keys() == base.keys()
    assert all(torch.equal(frozen[name], value) for name, value in base.items())
    assert {value.dtype for value in frozen.values()} == {kind.get("dtype", torch.bfloat16)}


def noting(kept: dict[str, Tensor], measure: Any) -> Any:
    """Measure, and keep what was measured: the weights, and what they predict."""

    def measured(prepared: Any, model: Any, *rest: Any) -> Any:
        kept.update(model.state_dict())
        kept["lora_predictions"] = predictions(model)
        return measure(prepared, model, *rest)

    return measured


@KINDS
def test_what_was_measured_is_what_loads_and_no_longer_the_core(kind, text, monkeypatch):
    add_core("big", **kind)
    kept: dict[str, Tensor] = {}
    monkeypatch.setattr(job, "assess", noting(kept, job.assess))
    train_small(settings(text))
    exact = {"rtol": 1e-4, "atol": 1e-4} if kind is WHOLE else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(predictions(with_adapter()), kept["lora_predictions"], **exact)
    assert not torch.equal(predictions(with_adapter()), predictions(without(kind)))


@pytest.mark.parametrize("kind", [LLADA, DREAM], ids=["llada", "dream"])
def test_an_adapter_of_a_pulled_core_is_registered_and_writes_beside_it(kind, text):
    add_core("big", **kind)
    trained = train_small(settings(text))
    manifest = Registry().find("notes").manifest
    assert (manifest.kind, manifest.core, manifest.base, manifest.attention) == (
        "adapter", "big", "big", "block-causal",
    )  # fmt: skip
    assert (manifest.block_size, manifest.context) == (BLOCK, CONTEXT)
    assert "notes is an adapter to the core big: " in (trained.folder / "report.html").read_text(encoding="utf-8")
    assert manifest.parameters == sum(value.numel() for value in load_file(trained.folder / WEIGHTS).values())
    assert Registry().verify("notes") == []
    assert with_adapter().shift == kind.get("shift", False)
    texts = [load("big", {"notes": 0.6}).generate("the boiler", seed=seed, max_tokens=16).text for seed in (1, 1)]
    assert texts[0] == texts[1] != ""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_base_is_held_in_the_dtype_that_is_asked_for(dtype, text):
    add_core("big", **LLADA)
    train_small(settings(text))
    assert with_adapter(Placement(dtype=dtype)).table.dtype == getattr(torch, dtype)


def test_a_checkpoint_holds_the_adapter_alone_and_a_training_goes_on_from_it(text):
    add_core("big", **LLADA)
    home = Registry().home
    whole = run(settings(text, name="whole", steps=3), home)
    parts = settings(text, name="parts", steps=3)
    with pytest.raises(Interrupted):
        run(parts, home, stop_after=1)
    (checkpoint,) = (home / "training" / "parts").glob("checkpoint-*/model.safetensors")
    with safe_open(checkpoint, "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118 - the file is no mapping
    outcome = run(parts, home)
    assert (outcome.steps, outcome.state) == ([2, 3], whole.state)


def test_a_checkpoint_of_another_model_is_refused(text):
    add_core("big", **LLADA)
    with pytest.raises(Interrupted):
        run(settings(text), Registry().home, stop_after=1)
    (checkpoint,) = (Registry().home / "training" / "notes").glob("checkpoint-*/model.safetensors")
    state = load_file(checkpoint)
    state["backbone.other"] = state.popitem()[1]
    save_file(state, checkpoint, {"format": "pt"})
    with pytest.raises(SsdError, match="is of another model: they differ in backbone"):
        train_small(settings(text))


def test_a_training_does_not_go_on_beside_other_weights(text):
    add_core("big", **LLADA)
    with pytest.raises(Interrupted):
        run(settings(text), Registry().home, stop_after=1)
    add_core("big", **WHOLE)
    with pytest.raises(UsageError, match="the weights of 'big' have changed since this training began"):
        train_small(settings(text))


def test_an_adapter_whose_core_is_gone_or_another_is_refused(text):
    add_core("big", **LLADA)
    train_small(settings(text))
    add_core("big", **WHOLE)
    with pytest.raises(UsageError, match="its weights have changed"):
        choose("big", ["notes"])
    Registry().remove("big")
    with pytest.raises(NoSuchModel, match="an adapter for 'big', and there is no model of this name"):
        choose("none", ["notes"])


def test_an_adapter_that_does_not_tell_how_its_core_is_read_is_refused(text):
    add_core("big", **LLADA)
    train_small(settings(text))
    config = Registry().find("notes").folder / CONFIG
    for content in ("{}", '{"vocabulary": 300, "hidden": 32, "layers": 2, "rank": 32, "suppressed": []}'):
        config.write_text(content, encoding="utf-8")
        with pytest.raises(SsdError, match=r"cannot be read|names no native body"):
            choose("big", ["notes"]).open()
    config.unlink()
    with pytest.raises(SsdError, match="cannot be read"):
        choose("big", ["notes"]).open()


@pytest.mark.parametrize("native", [GLM4_MOE, ROBERTA], ids=["mixture", "ssd-lm"])
def test_cores_of_other_classes_are_refused(native, text):
    add_core("big", native=native | ROOM)
    with pytest.raises(UsageError, match=rf"has \['{native['architectures'][0]}'\] .* and cannot begin a model"):
        train_small(settings(text))
    assert not (Registry().home / "training" / "notes").exists()


def test_a_pulled_model_of_another_process_is_refused(text):
    add_tiny("small", 1, process="simplex")
    add_core("big", **LLADA)
    with pytest.raises(UsageError, match="'big' does not fit the core 'small': its noise process is masked"):
        train_small(settings(text, core="small"))


def test_a_checkpoint_has_to_become_a_model_before_it_has_an_adapter(text, tmp_path):
    add_core("big", **LLADA)
    write_checkpoint(tmp_path / "lm")
    with pytest.raises(UsageError, match="is not a registered model") as raised:
        train_small(settings(text, init=str(tmp_path / "lm")))
    assert f"First make a model of it with --init {tmp_path / 'lm'}" in raised.value.remedy
