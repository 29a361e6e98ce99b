"""The tables that are meant for a GPU, at a tiny size."""

from __future__ import annotations

import warnings
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.engine import TABLES
from benchmarks.lib import large_cores

QUICK = Namespace(quick=True, rows=(1,), steps=2, rounds=1)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"BLOCK": 4, "PROMPT": 8, "TOKENS": 8}.items():
        monkeypatch.setattr(large_cores, name, value)


@pytest.mark.parametrize(("name", "passes"), [("causal", [1, 1, 0.25]), ("llada", [0.5, 0.5])])
def test_a_large_core_is_timed_alone_with_a_member_and_with_drafts(name: str, passes: list[float]) -> None:
    rows = [line.split(" | ") for line in TABLES[name](QUICK).splitlines()[2:]]
    assert [row[1] for row in rows] == ["1"] * len(passes)
    assert [float(row[2]) for row in rows] == passes  # of drafts every fourth token is wrong
    assert rows[0][5] == "+0.0%"
    assert all(float(row[3].replace(",", "")) > 0 for row in rows)


def test_a_pass_is_timed_as_it_is_launched_and_replayed() -> None:
    (row,) = [line.strip("| ").split(" | ") for line in TABLES["decode"](QUICK).splitlines()[2:]]
    assert row[0] == "1"
    assert all(float(number) > 0 for number in row[1:4])
    assert row[4] == "yes"


def test_a_pass_that_cannot_be_captured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(large_cores, "captured", fails)
    (line,) = TABLES["decode"](QUICK).splitlines()[2:]
    assert "operation not permitted when stream is capturing |" in line


def test_waits_are_errors_inside_a_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(large_cores, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run(after: Any, error: str = "") -> None:
        blocks_of_three(after)
        if error:
            raise RuntimeError(error)

    assert large_cores.waiting(run) == "none"
    assert modes == ["error", "error", "default", "default"]
    assert large_cores.waiting(lambda after: run(after, "called a synchronizing operation\nand more")) == (
        "called a synchronizing operation"
    )
    assert modes[-1] == "default"


def test_waits_of_drafts_are_counted_inside_a_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(large_cores, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def run(after: Any) -> None:
        for _ in range(2):
            blocks_of_three(after)
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("another one", UserWarning, stacklevel=1)

    assert large_cores.waits_a_step(run) == "0.50 a step"
    assert modes == [*["warn", "warn", "default"] * 2, "default"]


def blocks_of_three(after: Any) -> None:
    for index in range(3):
        after(SimpleNamespace(index=index, last=index == 2))
