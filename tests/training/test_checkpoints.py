from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from ssdcli.training import checkpoints
from ssdcli.training.checkpoints import Best, latest_checkpoint, publish


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


def checkpoint(folder: Path) -> Path:
    """A folder with files at two depths."""
    (folder / "deeper").mkdir(parents=True)
    for path in (folder / "model.safetensors", folder / "deeper" / "state.json"):
        path.write_text("1")
    return folder


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_checkpoint_is_on_the_disk_before_its_name_and_its_name_before_the_older_ones_go(tmp_path, monkeypatch):
    checkpoint(tmp_path / "checkpoint-1")
    partial = checkpoint(tmp_path / "partial")
    whole = {path.stat().st_ino for path in (partial, *partial.rglob("*"))}
    parent = tmp_path.stat().st_ino
    events: list[object] = []
    rename, rmtree = Path.rename, shutil.rmtree

    def noted_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    def noted_rmtree(path: Path, **how: bool) -> None:
        events.append("remove")
        rmtree(path, **how)

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", noted_rmtree)
    publish(partial, tmp_path / "checkpoint-2")
    named = events.index("rename")
    assert set(events[:named]) == whole
    assert events[named + 1 :] == [parent, "remove"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-1").exists()
