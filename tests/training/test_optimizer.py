from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.training.optimizer import OPTIMIZERS, PairedOptimizer, make_optimizer


def make_model() -> BlockDiffusionLM:
    torch.manual_seed(0)
    return BlockDiffusionLM(BackboneConfig(30, hidden=32, layers=1, rank=16))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def through_a_file(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_restored_optimizer_goes_on_bit_for_bit():
    model = make_model()
    optimizer = make_optimizer(model, 1e-2, 0.1)
    train(model, optimizer, range(3))
    state, middle = through_a_file(optimizer.state_dict()), copy.deepcopy(model)
    train(model, optimizer, range(3, 6))

    restored = make_optimizer(middle, 1e-2, 0.1)
    restored.load_state_dict(state)
    fresh_model = copy.deepcopy(middle)
    train(middle, restored, range(3, 6))
    assert equal(weights(middle), weights(model))

    train(fresh_model, make_optimizer(fresh_model, 1e-2, 0.1), range(3, 6))
    assert not equal(weights(fresh_model), weights(model))  # the state matters


def test_every_parameter_is_in_exactly_one_group_and_moves():
    model = make_model()
    optimizer = make_optimizer(model, 1e-2, 0.0)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    before = weights(model)
    train(model, optimizer, range(1))
    assert not any(torch.equal(before[name], value) for name, value in weights(model).items())


def test_a_scheduler_reaches_both_parts_before_and_after_a_restore():
    model = make_model()
    optimizer = make_optimizer(model, 1e-2, 0.1)
    train(model, optimizer, range(1))
    state = through_a_file(optimizer.state_dict())
    for restores in (False, True):
        model = make_model()
        optimizer = make_optimizer(model, 1e-2, 0.1)
        scheduler = LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)
        if restores:
            optimizer.load_state_dict(state)
        train(model, optimizer, range(1))
        scheduler.step()
        before = weights(model)
        train(model, optimizer, range(1, 2))
        assert equal(before, weights(model))  # the rate is zero for all
        assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.0}


def test_both_parts_share_one_learning_rate_and_steps_of_its_size():
    """Muon's update is scaled to the root mean square of AdamW's."""
    model = make_model()
    optimizer = make_optimizer(model, 1e-2, 0.0)
    before = weights(model)
    train(model, optimizer, range(1))
    for name, value in weights(model).items():
        moved = float((value - before[name]).square().mean().sqrt())
        assert 0.1 * 1e-2 < moved < 1.5 * 1e-2, name


def rest(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step without a gradient."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_matrices_decay_but_neither_embeddings_nor_gains_nor_biases(kind):
    model = make_model()
    before = weights(model)
    rest(model, make_optimizer(model, 1e-2, 0.5, kind))
    for name, value in weights(model).items():
        is_matrix = value.ndim == 2 and name != "table"
        expected = before[name] * (1 - 1e-2 * 0.5) if is_matrix else before[name]
        torch.testing.assert_close(value, expected)


def test_nothing_decays_beside_frozen_weights():
    model = make_model()
    model.table.requires_grad_(False)
    before = weights(model)
    rest(model, make_optimizer(model, 1e-2, 0.5))
    assert equal(before, weights(model))


def test_gradients_are_cleared_for_both_parts():
    model = make_model()
    optimizer = make_optimizer(model, 1e-2, 0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_pair_of_plain_optimizers_does_what_the_two_do():
    def pair_of_lines() -> list[nn.Parameter]:
        return [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]

    mine, theirs = pair_of_lines(), pair_of_lines()
    pair = PairedOptimizer(SGD(mine[:1], lr=0.1, momentum=0.9), SGD(mine[1:], lr=0.2))
    parts = [SGD(theirs[:1], lr=0.1, momentum=0.9), SGD(theirs[1:], lr=0.2)]
    for _ in range(3):
        for parameter in (*mine, *theirs):
            parameter.grad = torch.ones_like(parameter)
        pair.step()
        for part in parts:
            part.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert [group["lr"] for group in pair.param_groups] == [0.1, 0.2]
