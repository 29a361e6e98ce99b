"""A core's layers in 4 bits are packed once, and read from then on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssdcli.generation.loaded_model import open_model
from ssdcli.machine.placement import Placement
from ssdcli.models.backbones.packed_linear import Matrix
from ssdcli.models.weights import packed_file
from ssdcli.registry.store import Registry
from tests.pulled import LLAMA, add_causal


@pytest.fixture(autouse=True)
def _core():
    add_causal("core")


def predictions(name: str = "core") -> Tensor:
    core = open_model(Registry().find(name), Placement("int4")).denoiser
    return core.log_p(core.states(torch.tensor([[5, 9, 200, 31]])))


def packings(monkeypatch) -> list[Matrix]:
    """The matrices that are packed from now on."""
    found, pack = [], packed_file.packed_in_4_bits

    def noted(matrix):
        found.append(matrix)
        return pack(matrix)

    monkeypatch.setattr(packed_file, "packed_in_4_bits", noted)
    return found


def test_at_the_second_start_nothing_is_packed_and_everything_predicted_as_before(monkeypatch):
    packed = packings(monkeypatch)
    first = predictions()
    count = len(packed)
    assert count > 0
    assert torch.equal(predictions(), first)
    assert len(packed) == count


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_file_that_cannot_be_used_is_made_anew(monkeypatch, damage):
    packed = packings(monkeypatch)
    first, path = predictions(), Registry().packed("core")
    count, kept = len(packed), path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2] if damage is None else damage)
    assert torch.equal(predictions(), first)
    assert len(packed) == 2 * count
    assert path.read_bytes() == kept


def test_what_was_packed_from_other_weights_is_not_read():
    predictions()
    add_causal("other", native={**LLAMA, "num_attention_heads": 2, "intermediate_size": 96})
    expected, path = predictions("other"), Registry().packed("other")
    path.write_bytes(Registry().packed("core").read_bytes())
    assert torch.equal(predictions("other"), expected)


def test_it_goes_with_the_core():
    predictions()
    Registry().rename("core", "renamed")
    assert not Registry().packed("core").exists()
    predictions("renamed")
    Registry().remove("renamed")
    assert not Registry().packed("renamed").exists()


def test_where_it_cannot_be_kept_it_is_packed_at_each_start(monkeypatch):
    packed = packings(monkeypatch)
    Registry().packed("core").parent.write_text("a file in the way")
    first, count = predictions(), len(packed)
    assert torch.equal(predictions(), first)
    assert len(packed) == 2 * count
