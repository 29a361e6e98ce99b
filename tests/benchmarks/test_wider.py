from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.lib.models import Model
from benchmarks.lib.wider import adopted, widened
from ssdcli.api import load
from ssdcli.registry.store import Registry
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_causal
from tests.trainings import write_text


def test_a_wider_core_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_HOME", str(tmp_path))
    add_causal("core")
    registry = Registry()
    core = widened(Model.named("core"), 1, registry)
    wide = widened(Model.named("core"), 3, registry)
    assert wide.backbone.sizes.body > 1.5 * core.backbone.sizes.body
    tokens = torch.randint(40, (1, 12), generator=torch.Generator().manual_seed(0))
    said, by_wide = (one.denoiser.log_p(one.denoiser.states(tokens)) for one in (core, wide))
    torch.testing.assert_close(by_wide, said, atol=1e-4, rtol=0)


def test_a_small_model_writes_beside_a_wider_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSD_HOME", str(tmp_path))
    add_causal("core")
    data = write_text(tmp_path / "notes.txt", words=300)
    train_small(TrainSettings(data=(data,), core="core", name="own", steps=2, memory=False))
    registry = Registry()
    wide = widened(Model.named("core"), 2, registry)
    small = adopted(Model.named("own"), wide, registry)
    assert load(wide.name, [small.name], registry).generate("a", max_tokens=3).tokens == 3
