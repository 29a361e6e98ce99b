"""What is measured when a training ends: which member is which."""

from __future__ import annotations

import numpy as np
import pytest

from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.evaluation.canvases import CanvasSettings, canvas_losses
from ssdcli.evaluation.gating import GateFitter
from ssdcli.evaluation.losses import GRID, LossSettings, measure_combinations, shares
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import LoadedModel, open_model
from ssdcli.registry.store import Registry
from ssdcli.training import assessment
from ssdcli.training.settings import TrainSettings
from tests.pulled import add_core
from tests.tiny import CONTEXT, VOCABULARY, loaded, member, tiny_backbone

PROCESS = Masked(VOCABULARY, 1)
DRAW = np.random.default_rng(0)
TEXTS = [ScoredText([0, *DRAW.integers(3, 250, 40).tolist()], 100) for _ in range(12)]


@pytest.fixture(autouse=True)
def _without_haste(monkeypatch):
    monkeypatch.setattr(assessment, "measuring_seconds", lambda _: 1e6)


def small() -> LoadedModel:
    return loaded(Denoiser(tiny_backbone(2), PROCESS))


def fitted(core: LoadedModel, other: LoadedModel):
    """The losses over the grid, and the gate, that `assess` finds."""
    fitter = GateFitter(PROCESS)
    losses = assessment._with_core(core, other, TEXTS, fitter, TrainSettings())
    assert losses is not None
    return losses.sums, fitter.gate()


def test_a_gate_is_fitted_with_the_core_as_core_and_the_small_model_as_small():
    core, other = loaded(Denoiser(tiny_backbone(1), PROCESS)), small()
    backbones = core.denoiser.backbone, other.denoiser.backbone
    fitter = GateFitter(PROCESS)
    told = [*shares(GRID, 2, PROCESS), fitter.combination()]
    expected = measure_combinations(backbones, PROCESS, TEXTS, told, LossSettings(CONTEXT)).over(GRID)
    sums, gate = fitted(core, other)
    np.testing.assert_array_equal(sums, expected.sums)
    assert gate == fitter.gate()
    assert fitted(other, core)[1] != gate  # so that a swap would be seen


def test_the_same_holds_beside_a_core_that_cannot_denoise_a_whole_text_at_once():
    add_core("big")
    core, other = open_model(Registry().find("big"), process=PROCESS), small()
    members = [member("core", core.denoiser), member("small", other.denoiser, role="small")]
    fitter = GateFitter(PROCESS)
    told = [*shares(GRID, 2, PROCESS), fitter.combination()]
    expected = canvas_losses(members, TEXTS, told, CanvasSettings())
    assert expected is not None
    sums, gate = fitted(core, other)
    np.testing.assert_array_equal(sums, expected.over(GRID).sums)
    assert gate == fitter.gate()
