from __future__ import annotations

import pytest
import torch
from torch import nn

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.lora import add_adapter, join_adapter, save_adapter


def model() -> BlockDiffusionLM:
    torch.manual_seed(0)
    return BlockDiffusionLM(BackboneConfig(vocabulary=20, hidden=32, layers=1, rank=32, block_size=4))


@pytest.mark.parametrize("rank", [1, 8])
def test_an_update_is_twice_the_product_of_its_matrices_whatever_the_rank(rank, tmp_path):
    plain, tuned = model(), model()
    adapter = add_adapter(tuned, rank, seed=1)
    changes = {}
    for name, layer in plain.body.named_modules():
        if isinstance(layer, nn.Linear):
            beside = tuned.body.get_submodule(name)
            down, up = beside.lora_A["default"].weight, beside.lora_B["default"].weight
            with torch.no_grad():  # numbers that bfloat16 holds exactly
                down.copy_(torch.randint(-2, 3, down.shape).float())
                up.copy_(torch.randint(-2, 3, up.shape).float())
            changes[name] = 2 * up @ down
            x = torch.randn(3, layer.in_features)
            torch.testing.assert_close(beside(x) - layer(x), x @ changes[name].T, rtol=1e-4, atol=1e-3)
    assert changes
    save_adapter(adapter, tmp_path)
    joined = model()
    join_adapter(joined, tmp_path)
    for name, change in changes.items():
        found = joined.body.get_submodule(name).weight - plain.body.get_submodule(name).weight
        torch.testing.assert_close(found, change, rtol=1e-4, atol=1e-4)
