from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.lib.experiment import Workshop, heading_of
from ssdcli.errors import UsageError
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal
from tests.trainings import write_text


def workshop(out: Path, **changes: object) -> Workshop:
    return Workshop(argparse.Namespace(**({"out": out, "minutes": 1.0, "seeds": [0]} | changes)))


def test_a_piece_is_made_once_also_after_an_interruption(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        shop = workshop(tmp_path / "out.jsonl")
        assert shop.piece({"seed": 1}, lambda: made.append(1) or {"loss": 2.0})["loss"] == 2.0
    assert made == [1]


def test_a_piece_that_fails_leaves_no_line(tmp_path: Path) -> None:
    shop = workshop(tmp_path / "out.jsonl")
    with pytest.raises(ZeroDivisionError):
        shop.piece({"seed": 1}, lambda: {"loss": 1 / 0})
    assert shop.piece({"seed": 1}, lambda: {"loss": 3.0})["loss"] == 3.0


def test_results_of_other_arguments_are_not_mixed_into_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    workshop(out)
    workshop(out, seeds=[1, 2])
    with pytest.raises(UsageError, match="other arguments"):
        workshop(out, minutes=2.0)


@pytest.mark.parametrize(("changes", "a_step"), [({"lora": 4, "context": 32}, 96), ({}, 64)])
def test_the_tokens_of_a_training_beside_a_causal_core_are_those_of_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], a_step: int
) -> None:
    shop = workshop(tmp_path / "out.jsonl")
    monkeypatch.setenv("SSD_HOME", str(shop.home))
    add_causal("core")
    data = write_text(tmp_path / "notes.txt", words=300)
    settings = TrainSettings(data=(data,), core="core", name="own", steps=2, batch_tokens=100, memory=False, **changes)
    assert shop.trained(settings)["tokens"] == 2 * a_step


def test_a_heading_names_all_seeds() -> None:
    run = {"run": {}, "date": "2026-01-02", "machine": "M", "command": "python it.py"}
    assert heading_of([run, {"seed": 1}, {"seed": 0}, {"seed": 1}]) == "2026-01-02, M; seeds 0, 1: `python it.py`"
