from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdcli.errors import SsdError
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone

CONFIG = BackboneConfig(50, hidden=32, layers=2, rank=16, block_size=4, context=64, suppressed=(0,))


@pytest.fixture
def model() -> BlockDiffusionLM:
    torch.manual_seed(0)
    return BlockDiffusionLM(CONFIG)


def same(a: BlockDiffusionLM, b: BlockDiffusionLM) -> bool:
    states = a.state_dict(), b.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_model_kept_in_float32_comes_back_bit_for_bit(model, tmp_path):
    save_backbone(model, tmp_path, torch.float32)
    again = load_backbone(tmp_path)
    assert again.config == CONFIG
    assert same(model, again)
    hidden = torch.randn(1, 3, 32)
    assert torch.equal(model.logits(hidden), again.logits(hidden))


def test_a_model_is_kept_in_bfloat16_unless_told_and_read_in_the_precision_asked_for(model, tmp_path):
    save_backbone(model, tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size < 2.2 * sum(value.numel() for value in model.state_dict().values()) + 10_000
    assert {p.dtype for p in load_backbone(tmp_path).parameters()} == {torch.float32}
    assert {p.dtype for p in load_backbone(tmp_path, torch.bfloat16).parameters()} == {torch.bfloat16}
    assert same(load_backbone(tmp_path), model.bfloat16().float())


def test_names_of_earlier_versions_are_read_and_todays_are_written(model, tmp_path):
    """An unfinished training holds the same names below `backbone.`."""
    torch.nn.init.normal_(model.self_conditioning.weight)
    save_backbone(model, tmp_path, torch.float32)
    written = json.loads((tmp_path / "config.json").read_text())
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"hears_itself" if key == "self_conditioned" else key: value for key, value in written.items()})
    )
    old = {name.replace("self_conditioning.", "listen."): value for name, value in state.items()}
    assert (len(old.keys() - state.keys()), "listen.weight" in old) == (1, True)
    save_file(old, tmp_path / "model.safetensors")
    assert load_backbone(tmp_path).config == CONFIG
    assert same(load_backbone(tmp_path), model)
    whole = torch.nn.ModuleDict({"backbone": BlockDiffusionLM(CONFIG)})
    found = whole.load_state_dict({f"backbone.{name}": value for name, value in old.items()}, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert same(whole["backbone"], model)


def test_rotary_angles_are_exact_in_any_precision(model, tmp_path):
    save_backbone(model, tmp_path)
    exact, low = load_backbone(tmp_path), load_backbone(tmp_path, torch.bfloat16)
    frequencies = dict(exact.body.named_buffers())
    assert frequencies
    for name, value in low.body.named_buffers():
        assert torch.equal(value, frequencies[name])


def test_what_is_kept_and_read_again_stays_as_it_is(model, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save_backbone(model, tmp_path / "a")
    save_backbone(load_backbone(tmp_path / "a"), tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_leaves_the_model_as_it_was(model, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_backbone(model, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_a_model_that_was_read_is_ready_for_inference(model, tmp_path):
    save_backbone(model, tmp_path)
    again = load_backbone(tmp_path)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BREAKAGES = {
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "another JSON": lambda folder: (folder / "config.json").write_text("[1]"),
    "no text": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
    "a key too few": lambda folder: (folder / "config.json").write_text("{}"),
    "a key too many": lambda folder: rewrite(folder, wings=2),
    "an unknown body": lambda folder: rewrite(folder, architecture="nonesuch"),
    "other shapes": lambda folder: rewrite(folder, hidden=64),
    "more layers": lambda folder: rewrite(folder, layers=3),
    "an impossible body": lambda folder: rewrite(folder, hidden=33),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "torn weights": lambda folder: cut(folder / "model.safetensors"),
    "no weights but text": lambda folder: (folder / "model.safetensors").write_text("a letter " * 20),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_folder_is_named_and_the_remedy_told(model, tmp_path, breakage):
    save_backbone(model, tmp_path)
    BREAKAGES[breakage](tmp_path)
    with pytest.raises(SsdError) as caught:
        load_backbone(tmp_path)
    assert str(tmp_path) in caught.value.problem
    assert "\n" not in caught.value.problem
    assert caught.value.remedy
