from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from ssdcli.training.best import Best


def model(value: float) -> nn.Module:
    layer = nn.Linear(2, 3)
    with torch.no_grad():
        layer.weight.fill_(value)
        layer.bias.fill_(-value)
    return layer


def weight(layer: nn.Module) -> float:
    (value,) = layer.state_dict()["weight"].unique().tolist()
    return float(value)


def offered(*losses: float) -> Best:
    """The weights at step n are n."""
    best, layer = Best(), model(0)
    for step, loss in enumerate(losses, 1):
        layer.load_state_dict(model(step).state_dict())
        best.offer(step, loss, layer.state_dict)
    return best


def test_the_weights_of_the_lowest_loss_are_kept_whatever_comes_later():
    best, layer = offered(3.0, 2.0, 2.5, 2.0, math.nan), model(9)
    best.give(layer)
    assert weight(layer) == best.step == 2
    assert best.loss == 2.0
    assert best.worse == 3


def test_progress_is_counted_anew():
    assert offered(3.0, 4.0, 4.0, 2.0).worse == 0


def test_weights_without_a_loss_are_left_as_they_are():
    layer = model(9)
    offered(math.nan, math.inf).give(layer)
    assert weight(layer) == 9


def test_what_is_kept_survives_an_interruption(tmp_path: Path):
    offered(3.0, 2.0, 2.5).save(tmp_path)
    best, layer = Best(), model(9)
    best.restore(tmp_path)
    best.give(layer)
    assert weight(layer) == 2
    assert (best.step, best.loss, best.worse) == (2, 2.0, 1)


def test_nothing_kept_is_nothing_saved(tmp_path: Path):
    Best().save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    best = Best()
    best.restore(tmp_path)
    assert best.loss == math.inf
