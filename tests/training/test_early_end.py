from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssdcli.errors import Interrupted
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import Registry
from ssdcli.training import job
from ssdcli.training.job import Watcher, train_small
from tests.trainings import tiny_settings, write_text

STEPS = 40  # measured at every second


class Heldout:
    """Gives the losses of a list, the last of which is repeated, and keeps the weights that they were asked for."""

    def __init__(self, losses: list[float]) -> None:
        self._losses = losses
        self.tables: list[torch.Tensor] = []

    def __call__(self, prepared: Any) -> Any:
        def measured() -> float:
            self.tables.append(prepared.model.table.detach().clone())
            return self._losses[min(len(self.tables), len(self._losses)) - 1]

        return measured


@pytest.fixture
def text(tmp_path: Path) -> str:
    return write_text(tmp_path / "text.txt")


def trained(text: str, home: Path, losses: list[float], monkeypatch: Any, **changes: Any) -> tuple[Any, Heldout]:
    heldout = Heldout(losses)
    with monkeypatch.context() as patch:
        patch.setattr(job, "heldout_measure", heldout)
        settings = tiny_settings(text, **{"steps": STEPS, "warmup": 1, "checkpoint_seconds": 1000.0, **changes})
        return train_small(settings, registry=Registry(home)), heldout


def table(home: Path) -> torch.Tensor:
    return load_backbone(Registry(home).find("tiny").folder).table


def test_overfitting_ends_a_training_early_and_the_best_weights_are_kept(text, tmp_path, monkeypatch):
    done, heldout = trained(text, tmp_path, [5.0, 4.0, 3.0, 3.1, 3.2, 3.3], monkeypatch, patience=2)
    assert done.description.kept == 6
    # It winds down from the tenth step, the second without progress, as a training of 6 / 0.6 steps would have.
    assert done.description.steps == 14
    torch.testing.assert_close(table(tmp_path), heldout.tables[2].bfloat16().float(), rtol=0, atol=0)
    assert "kept" in (done.folder / "README.md").read_text()


def test_it_winds_down_from_the_best_weights(text, tmp_path, monkeypatch):
    _, heldout = trained(text, tmp_path, [5.0, 4.0, 3.0, 3.1, 3.2, 3.3], monkeypatch, patience=2)
    best, last, after = heldout.tables[2], heldout.tables[4], heldout.tables[5]
    assert (after - best).norm() < 0.7 * (after - last).norm()


def test_progress_while_it_winds_down_is_kept(text, tmp_path, monkeypatch):
    losses = [5.0, 4.0, 4.1, 4.2, *[3.0] * 20]
    done, heldout = trained(text, tmp_path, losses, monkeypatch, patience=2)
    assert done.description.steps < STEPS
    torch.testing.assert_close(table(tmp_path), heldout.tables[4].bfloat16().float(), rtol=0, atol=0)


def falling() -> Iterator[float]:
    yield from (5.0 - step / 20 for step in range(STEPS))


def test_a_training_that_gets_better_takes_all_its_steps(text, tmp_path, monkeypatch):
    done, _ = trained(text, tmp_path, list(falling()), monkeypatch, patience=1)
    assert done.description.steps == STEPS
    assert done.description.kept is None
    assert "weights kept" not in (done.folder / "README.md").read_text()


def test_no_patience_is_to_train_to_the_end_and_keep_the_last(text, tmp_path, monkeypatch):
    done, heldout = trained(text, tmp_path, [3.0, 4.0], monkeypatch, patience=0)
    assert done.description.steps == STEPS
    assert done.description.kept is None
    torch.testing.assert_close(table(tmp_path), heldout.tables[-1].bfloat16().float(), rtol=0, atol=0)


def test_an_interrupted_training_remembers_what_was_best(text, tmp_path, monkeypatch):
    losses = [5.0, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7]
    whole, _ = trained(text, tmp_path / "whole", losses, monkeypatch, patience=2)
    steps: list[int] = []
    watcher = Watcher(on_progress=lambda progress: steps.append(progress.step), wants_stop=lambda: steps[-1] == 7)
    settings = tiny_settings(text, steps=STEPS, warmup=1, checkpoint_seconds=1000.0, patience=2)
    with monkeypatch.context() as patch:
        patch.setattr(job, "heldout_measure", Heldout(losses[:3]))
        with pytest.raises(Interrupted):
            train_small(settings, watcher, registry=Registry(tmp_path / "parts"))
        patch.setattr(job, "heldout_measure", Heldout(losses[3:]))
        parts = train_small(settings, registry=Registry(tmp_path / "parts"))
    assert [(one.description.steps, one.description.kept) for one in (parts, whole)] == [(11, 4)] * 2
    assert torch.equal(table(tmp_path / "parts"), table(tmp_path / "whole"))
