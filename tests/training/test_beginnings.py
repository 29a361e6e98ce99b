"""Trainings that begin from a registered model, from a checkpoint, or beside a model as its adapter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssdcli.api import Blend, load
from ssdcli.errors import Interrupted, NoSuchModel, SsdError, UsageError
from ssdcli.generation.selection import choose
from ssdcli.machine.placement import Placement
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.loading import load_model
from ssdcli.models.lora import WEIGHTS as ADAPTER_WEIGHTS
from ssdcli.registry import archive
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import train_tokenizer
from ssdcli.training import job
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import resumed
from tests.checkpoints import write_checkpoint
from tests.tiny import BLOCK, CONTEXT, add_tiny, tiny_backbone
from tests.trainings import run, write_text

STEPS, WORDS = 4, 600
MASKED: Mapping[str, Any] = {"constants": {"mask_id": 1.0, "t_min": 1e-3}}
OF: Mapping[str, Mapping[str, Any]] = {"masked": MASKED, "simplex": {"process": "simplex"}}
MEMBER: Mapping[str, Any] = {"kind": "small", "core": "big"}


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write_text(tmp_path / "notes.txt", WORDS)


@pytest.fixture
def registry() -> Registry:
    """A masked core, and a model that was made for it."""
    return with_models()


def with_models() -> Registry:
    add_tiny("big", 1, **MASKED)
    add_tiny("general", 2, **MASKED, **MEMBER)
    return Registry()


def settings(text: str, init: str | Path, **changes: Any) -> TrainSettings:
    fields: dict[str, Any] = {"core": "big", "name": "notes", "steps": STEPS, "batch_tokens": 128}
    return TrainSettings(**{"data": (text,), "init": str(init), "checkpoint_seconds": 1000.0, **fields, **changes})


def weights(name: str) -> dict[str, Tensor]:
    found = load_file(Registry().find(name).folder / "model.safetensors")
    return {key: value.float() for key, value in found.items()}


def still(text: str, init: str | Path, **changes: Any) -> TrainSettings:
    """A step that changes nothing that bfloat16 could tell."""
    return settings(text, init, steps=1, learning_rate=1e-12, **changes)


@pytest.mark.parametrize("init", ["general", "big"])
def test_a_registered_model_goes_on_from_its_weights_and_keeps_its_shape(init, text, registry):
    trained = train_small(still(text, init))
    before = load_backbone(registry.find(init).folder)
    assert load_backbone(trained.folder).config == before.config
    own = weights("notes")
    assert all(torch.equal(own[name], value.bfloat16().float()) for name, value in before.state_dict().items())
    manifest = registry.find("notes").manifest
    assert (manifest.kind, manifest.core, manifest.base, manifest.context) == ("small", "big", init, CONTEXT)
    assert trained.description.size is None


def test_a_model_that_goes_on_learns(text, registry):
    before = weights("general")
    train_small(settings(text, "general"))
    after = weights("notes")
    assert not torch.equal(after["table"], before["table"])


def written(*names: str) -> str:
    """What the core and these write."""
    return load("big", dict.fromkeys(names, 0.6)).generate("the boiler", seed=1, max_tokens=16).text


def test_a_base_that_is_named_stays_the_base_and_a_contrast_has_it(text, registry):
    train_small(still(text, "big", base="general"))
    assert registry.find("notes").manifest.base == "general"
    train_small(still(text, "general", name="letters"))
    lineup = choose("big", {"letters": 0.3}, blend=Blend(rule="contrast"))
    assert [one.model.entry.name for one in lineup.members] == ["big", "letters", "general"]


@pytest.mark.parametrize(("kind", "process"), [("qwen3", "masked"), ("llama", "simplex"), ("roberta", "simplex")])
def test_a_checkpoint_becomes_a_small_model_that_writes(kind, process, text, tmp_path):
    add_tiny("big", 1, **OF[process])
    write_checkpoint(tmp_path / "lm", kind)
    trained = train_small(settings(text, tmp_path / "lm", context=CONTEXT))
    manifest = Registry().find("notes").manifest
    assert (manifest.kind, manifest.base, manifest.block_size, manifest.architecture) == ("small", None, BLOCK, kind)
    assert load_backbone(trained.folder).shift == (
        process == "masked"
    )  # nothing shows a token there but its neighbours
    assert written("notes") != written()
    said = (trained.folder / "recipe.toml").read_text() + (trained.folder / "README.md").read_text()
    assert str(tmp_path) not in said
    assert 'init = "lm"' in said


def test_adapted_models_share_no_noise_with_chance(text, registry, tmp_path):
    write_checkpoint(tmp_path / "lm")
    for name in ("one", "two"):
        train_small(settings(text, tmp_path / "lm", name=name, context=CONTEXT))
    one, two = weights("one"), weights("two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = not load_backbone(Registry().find("one").folder).shift
    train_small(settings(text, tmp_path / "lm", name="four", context=CONTEXT, shift=other))
    assert load_backbone(Registry().find("four").folder).shift == other


def test_an_interrupted_training_goes_on_without_its_beginning(text, registry, tmp_path):
    stop = 2
    write_checkpoint(tmp_path / "lm")
    fields: dict[str, Any] = {"context": CONTEXT}
    whole = run(settings(text, tmp_path / "lm", name="whole", **fields), registry.home)
    parts = settings(text, tmp_path / "lm", name="parts", **fields)
    with pytest.raises(Interrupted):
        run(parts, registry.home, stop_after=stop)
    shutil.rmtree(tmp_path / "lm")
    outcome = run(parts, registry.home)
    assert outcome.steps == list(range(stop + 1, STEPS + 1))
    assert outcome.state == whole.state
    assert outcome.trained.description.quality.bits_per_byte == whole.trained.description.quality.bits_per_byte


def test_the_model_that_a_training_began_from_may_go_meanwhile(text, registry):
    parts = settings(text, "general")
    with pytest.raises(Interrupted):
        run(parts, registry.home, stop_after=2)
    registry.remove("general")
    assert run(parts, registry.home).steps == [3, 4]
    assert registry.find("notes").manifest.base == "general"


def test_a_resumed_training_keeps_its_beginning(text, registry):
    add_tiny("other", 3, **MASKED, **MEMBER)
    with pytest.raises(Interrupted):
        run(settings(text, "general"), registry.home, stop_after=2)
    for key, value in (("init", "other"), ("lora", 4), ("shift", False)):
        with pytest.raises(UsageError, match=f"keeps its {key}"):
            resumed(registry, "notes", {key: value})


def refused(text: str, init: str | Path, **changes: Any) -> str:
    """What is said of a training that cannot begin; nothing is left of it."""
    before = Registry().entries()
    with pytest.raises((UsageError, SsdError)) as raised:
        train_small(settings(text, init, **changes))
    assert Registry().entries() == before
    assert not (Registry().home / "training" / "notes").exists()
    return str(raised.value.problem)


def test_what_does_not_fit_the_core_is_refused(text, registry):
    add_tiny("smooth", 3, process="simplex", **MEMBER)
    add_tiny("long", 4, backbone=tiny_backbone(block_size=16), **MASKED, **MEMBER)
    add_tiny("foreign", 5, tokenizer=train_tokenizer(["other words " * 50], 300), **MASKED, **MEMBER)
    assert "noise process is simplex" in refused(text, "smooth")
    assert "its block size is 16, not 8" in refused(text, "long")
    assert "their tokenizers differ" in refused(text, "foreign")
    assert "no model named 'nobody'" in refused(text, "nobody")
    assert "no folder './nobody'" in refused(text, "./nobody")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": "nano"}, "--size was given"),
        ({"hidden": 32}, "--hidden was given"),
        ({"layers": 1}, "--layers was given"),
        ({"context": 32}, "--context was given"),
        ({"shift": True}, "--shift was given"),
        ({"core": "none"}, "what --init names has a tokenizer already"),
        ({"lora": 0}, "lora=0 must be between 1 and 256"),
        ({"lora": 200}, "--lora 200 is too large"),
        ({"lora": 4, "base": "general"}, "an adapter's base is what it begins from"),
        ({"lora": 4, "init": None}, "but --init was not"),
        ({"shift": True, "init": None}, "but --init was not"),
    ],
)
def test_what_a_beginning_decides_or_needs_is_said(changes, says, text, registry):
    with pytest.raises(UsageError) as raised:
        train_small(replace(settings(text, "general"), **changes))
    assert says in raised.value.problem


def test_a_checkpoint_that_will_not_do_is_refused(text, registry, tmp_path):
    write_checkpoint(tmp_path / "foreign", tokenizer=train_tokenizer(["other words " * 50], 300))
    assert "their tokenizers differ" in refused(text, tmp_path / "foreign")
    assert "is not a registered model" in refused(text, tmp_path / "foreign", lora=4)
    write_checkpoint(tmp_path / "lm")
    weights_file = tmp_path / "lm" / "model.safetensors"
    weights_file.rename(tmp_path / "lm" / "pytorch_model.bin")
    assert "holds no *.safetensors" in refused(text, tmp_path / "lm")
    weights_file.write_bytes(b"nothing")
    assert "cannot be read" in refused(text, tmp_path / "lm")
    (tmp_path / "lm" / "tokenizer.json").unlink()
    assert "holds no tokenizer.json" in refused(text, tmp_path / "lm")


# Adapters


def adapter(text: str, init: str = "big", **changes: Any) -> None:
    train_small(settings(text, init, lora=4, **changes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the adapter `notes` on a model of `registry`, trained once."""

    @cache
    def train(init: str) -> Path:
        root = tmp_path_factory.mktemp("adapter")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSD_HOME", str(root / "home"))
            registry = with_models()
            adapter(write_text(root / "notes.txt", WORDS), init)
            return registry.find("notes").folder

    return train


@pytest.fixture
def adapted(registry: Registry, trained: Callable[[str], Path]) -> Callable[[str], None]:
    """Adds the adapter `notes` on a model to the registry."""
    return lambda init: shutil.copytree(trained(init), registry.models / "notes")


@pytest.mark.parametrize(("init", "process"), [("big", "masked"), ("general", "simplex")])
def test_an_adapter_is_small_and_writes_on_its_base(process, init, text):
    for seed, (name, changes) in enumerate({"big": {}, "general": MEMBER}.items()):
        add_tiny(name, seed, **OF[process], **changes)
    adapter(text, init)
    entry = Registry().find("notes")
    manifest = entry.manifest
    assert (manifest.kind, manifest.core, manifest.base, manifest.process) == ("adapter", "big", init, process)
    assert manifest.parameters == sum(v.numel() for v in load_file(entry.folder / ADAPTER_WEIGHTS).values())
    assert not (entry.folder / "model.safetensors").exists()
    assert Registry().verify("notes") == []
    assert written("notes") == written("notes")
    card = (entry.folder / "README.md").read_text(encoding="utf-8")
    assert f"an adapter to the diffusion language model `{init}`" in card


def loaded(adapter: bool) -> dict[str, Tensor]:
    entry = Registry().find("notes")
    base = Registry().find("big").folder
    model: Any = load_model(base, Placement(), BLOCK, entry.folder if adapter else None)
    state: dict[str, Tensor] = model.state_dict()
    return state


def test_an_adapter_that_has_learned_nothing_is_its_base_bit_for_bit(text, registry, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: None)
    adapter(text)
    with_it, without = loaded(adapter=True), loaded(adapter=False)
    assert with_it.keys() == without.keys()
    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_an_adapter_learns_beside_what_stays_as_it_is(adapted):
    adapted("big")
    with_it, without = loaded(adapter=True), loaded(adapter=False)
    moved = {name for name in without if not torch.equal(with_it[name], without[name])}
    assert moved == {name for name in without if name.startswith("body.") and name.endswith("proj.weight")}


def test_what_was_measured_of_an_adapter_is_what_loads(text, registry, monkeypatch):
    kept: dict[str, Tensor] = {}
    finish = job.assess

    def noting(prepared: Any, model: Any, *rest: Any) -> Any:
        torch.manual_seed(0)
        kept["logits"] = model.logits(through(model))
        return finish(prepared, model, *rest)

    def through(model: Any) -> Tensor:
        ids, mask = torch.arange(16)[None], torch.ones(1, 1, 16, 16, dtype=torch.bool)
        hidden: Tensor = model.encode(model.embed(ids), torch.arange(16)[None], mask, None)
        return hidden

    monkeypatch.setattr(job, "assess", noting)
    adapter(text)
    model: Any = load_model(registry.find("big").folder, Placement(), BLOCK, registry.find("notes").folder)
    torch.testing.assert_close(model.logits(through(model)), kept["logits"], rtol=1e-2, atol=1e-2)


def test_an_interrupted_adapter_ends_as_if_it_never_was(text, registry):
    whole = run(settings(text, "big", lora=4, name="whole"), registry.home)
    parts = settings(text, "big", lora=4, name="parts")
    with pytest.raises(Interrupted):
        run(parts, registry.home, stop_after=3)
    outcome = run(parts, registry.home)
    assert (outcome.steps, outcome.state) == ([4], whole.state)


def test_an_adapter_without_its_base_is_refused(adapted, registry):
    adapted("general")
    registry.remove("general")
    with pytest.raises(NoSuchModel, match="an adapter for 'general', and there is no model of this name"):
        choose("big", ["notes"])


def test_an_adapter_for_other_weights_is_refused(adapted):
    adapted("general")
    add_tiny("general", 9, **MASKED, **MEMBER)
    with pytest.raises(UsageError, match="its weights have changed"):
        choose("big", ["notes"])


def test_a_base_takes_its_adapters_along_to_another_name(adapted, registry):
    adapted("general")
    before = written("notes")
    registry.rename("general", "common")
    assert registry.find("notes").manifest.base == "common"
    assert written("notes") == before


def test_an_adapter_travels_without_its_base(adapted, registry, tmp_path):
    adapted("big")
    before = written("notes")
    archive.export_to_file(registry.find("notes"), tmp_path / "notes.tar")
    registry.remove("notes")
    with (tmp_path / "notes.tar").open("rb") as stream:
        archive.import_model(registry, stream, "it")
    assert written("notes") == before


def test_an_adapter_is_no_beginning_and_no_base(adapted, text):
    adapted("big")
    assert "is an adapter" in refused(text, "notes", name="more")
    with pytest.raises(UsageError, match="is not a small model that fits"):
        train_small(still(text, "big", base="notes", name="more"))


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_with_a_missing_or_broken_file_is_refused(file, adapted, registry):
    adapted("big")
    entry = registry.find("notes")
    (entry.folder / file).write_bytes(b"{}")
    with pytest.raises(SsdError, match="cannot be read"):
        choose("big", ["notes"]).open()
    (entry.folder / file).unlink()
    with pytest.raises(SsdError, match="cannot be read"):
        choose("big", ["notes"]).open()
