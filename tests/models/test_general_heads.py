"""Draft heads that come with the package, on toy Llamas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ssdcli.models.backbones.draft_head import DraftHead, DraftingCore
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from ssdcli.models.general_heads import FOLDER, general_guesses, general_head, save_general_head
from tests.engine.test_causal import denoiser, llama

LAYERS = (1,)
_MOST_BYTES = 25_000_000  # of all models that come with the package


def core_of(seed: int = 0, dtype: torch.dtype = torch.float32) -> NativeCausalBackbone:
    model = llama(seed)
    model.resize_token_embeddings(80)
    nn.init.normal_(model.get_input_embeddings().weight, generator=torch.Generator().manual_seed(seed))
    core = denoiser(model.to(dtype)).backbone
    assert isinstance(core, NativeCausalBackbone)
    return core


def saved(core: NativeCausalBackbone, path: Path) -> DraftHead:
    head = DraftHead(32, 1 + len(LAYERS), torch.arange(0, 80, 3))
    save_general_head(head.requires_grad_(False), LAYERS, core, path)
    return head


def test_a_head_is_found_again_for_its_core_in_other_bits_and_for_no_other(tmp_path):
    core = core_of()
    head = saved(core, tmp_path / "one")
    found = general_head(core_of(), [tmp_path / "one"])
    assert found is not None
    assert found[1] == LAYERS
    states, embedded = torch.randn(2, 5, 64).unbind(0)[0], torch.randn(5, 32)
    torch.testing.assert_close(found[0].begin(states, embedded), head.begin(states, embedded), rtol=0.02, atol=0.02)
    assert torch.equal(found[0].ids, head.ids)
    coarse = core_of()
    weight = coarse.model.get_input_embeddings().weight
    weight.data = (weight.data * 4).round() / 4
    assert general_head(coarse, [tmp_path / "one"]) is not None
    assert general_head(core_of(1), [tmp_path / "one"]) is None


def test_a_head_at_work_scores_its_ids_as_the_core_scores_them(tmp_path):
    core = core_of()
    head = DraftHead(32, 2, torch.arange(0, 80, 3)).requires_grad_(False)
    core.tap(LAYERS)
    guess = torch.randn(4, 32)
    expected = torch.log_softmax(core.logits(head.as_state(guess))[:, head.ids], -1)
    torch.testing.assert_close(DraftingCore(head, core).log_p(guess), expected)


def test_a_head_at_work_beside_a_core_in_bfloat16_guesses_as_it_was_trained_to():
    core = core_of(dtype=torch.bfloat16)
    head = DraftHead(32, 2, torch.arange(0, 80, 3)).requires_grad_(False)
    states, token = torch.randn(4, 64), torch.arange(4)
    embedded = core.embed(token)
    begun = head.begin(states, embedded)
    stepped = head.step(begun, embedded)
    at_work = DraftingCore(head, core)
    assert not any(isinstance(part, nn.Linear) for part in head.modules())
    torch.testing.assert_close(at_work.begin(states, token), begun, rtol=0.03, atol=0.03)
    torch.testing.assert_close(at_work.step(begun, token), stepped, rtol=0.03, atol=0.03)


def test_what_comes_with_the_package_is_small():
    files = [path for path in FOLDER.parent.rglob("*.safetensors") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < _MOST_BYTES


def test_a_core_whose_other_layers_are_read_has_no_general_head(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ssdcli.models.general_heads.general_head", lambda core: (saved(core, tmp_path / "one"), LAYERS)
    )
    core = core_of()
    assert general_guesses(core) is not None
    assert core.taps == LAYERS
    assert general_guesses(core) is general_guesses(core)
    other = core_of()
    other.tap((0,))
    assert general_guesses(other) is None


@pytest.mark.parametrize("tied", [True, False])
def test_the_rows_of_a_head_are_those_that_it_scores_with(tied: bool):
    core = core_of()
    if not tied:
        core.model.get_output_embeddings().weight = nn.Parameter(torch.randn(80, 32), requires_grad=False)
    ids, states = torch.tensor([3, 50, 7]), torch.randn(2, 32)
    torch.testing.assert_close(states @ core.head_rows(ids).T, core.scores_of(states, ids))
