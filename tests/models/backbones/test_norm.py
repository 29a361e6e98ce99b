from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM, LowNorm

WIDTH = 24
SHAPES = pytest.mark.parametrize("shape", [(2, 7, WIDTH), (2, 7, 3, WIDTH)], ids=["states", "heads"])


def norms() -> tuple[LowNorm, Qwen3RMSNorm]:
    """This project's and transformers', of one weight."""
    low, own = LowNorm(WIDTH), Qwen3RMSNorm(WIDTH)
    weight = torch.rand(WIDTH, generator=torch.Generator().manual_seed(0)) + 0.5
    low.weight.data, own.weight.data = weight.clone(), weight.clone()
    return low, own


def with_gradients(norm: Qwen3RMSNorm, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_(True)
    out = norm(x)
    grads = torch.autograd.grad((out.float() * torch.arange(WIDTH).sin()).sum(), (x, norm.weight))
    return [out.detach(), *grads]


@SHAPES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast_it_is_transformers_norm_and_its_gradients_but_for_rounding(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    low, own = norms()
    with torch.autocast("cpu", torch.bfloat16):
        mine = with_gradients(low, x)
    assert [y.dtype for y in mine] == [torch.bfloat16, dtype, torch.float32]
    for a, b in zip(mine, with_gradients(own, x.bfloat16().float()), strict=True):
        assert float((a.float() - b).norm() / b.norm()) < 0.02


@SHAPES
def test_without_autocast_it_is_transformers_norm_bit_for_bit(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    low, own = norms()
    assert all(torch.equal(a, b) for a, b in zip(with_gradients(low, x), with_gradients(own, x), strict=True))


def test_nothing_but_zeros_stays_zero():
    with torch.autocast("cpu", torch.bfloat16):
        values = with_gradients(norms()[0], torch.zeros(2, WIDTH))
    assert all(torch.isfinite(value).all() for value in values)
    assert (values[0] == 0).all()


def test_a_body_has_no_other_norms_and_the_names_of_its_weights_stay():
    body = BlockDiffusionLM(BackboneConfig(30, hidden=32, layers=2, rank=32)).body
    found = [module for module in body.modules() if isinstance(module, Qwen3RMSNorm)]
    assert len(found) == 2 * 4 + 1
    assert all(type(module) is LowNorm for module in found)
    assert {"norm.weight", "layers.0.input_layernorm.weight", "layers.1.self_attn.q_norm.weight"} <= set(
        body.state_dict()
    )
