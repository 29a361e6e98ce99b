from __future__ import annotations

import numpy as np
import pytest

from benchmarks.lib.blends import Blend, Voice, alone, measure_blends, shared, steady
from benchmarks.lib.columns import Columns
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import average, contrast
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.evaluation.gaps import Gap, GapSettings, View, both_sides, choose_gaps, left_side, measure_gaps
from ssdcli.evaluation.losses import Passage
from tests.tiny import BLOCK, VOCABULARY, tiny_backbone

SETTINGS = GapSettings(BLOCK, BLOCK, left=16, right=8, per_document=2, levels=3, batch=3)
PROCESSES = pytest.mark.parametrize("process", [Masked(VOCABULARY, 1), Simplex(VOCABULARY)], ids=["masked", "simplex"])


def gaps() -> list[Gap]:
    draws = np.random.default_rng(0)
    passages = [Passage([0, *draws.integers(3, 40, 30 + 7 * number)], 1) for number in range(3)]
    return choose_gaps(passages, SETTINGS)


def voice(process: Process, seed: int, view: View = left_side) -> Voice:
    return Voice(Denoiser(tiny_backbone(seed, process=process.name), process), view)


def measured(process: Process, *blends: Blend) -> Columns:
    voices = {"core": voice(process, 0), "small": voice(process, 1), "seeing": voice(process, 1, both_sides)}
    return measure_blends(voices, blends, gaps(), SETTINGS)


@PROCESSES
def test_a_voice_alone_loses_what_it_loses_when_gaps_are_measured(process: Process) -> None:
    found = measured(process, alone("small"), alone("seeing"))
    denoiser = voice(process, 1).denoiser
    expected = measure_gaps(denoiser, gaps(), [left_side, both_sides], SETTINGS)
    assert found.sums == pytest.approx(expected.sums.mean(-1), rel=1e-5)
    assert (found.tokens == expected.tokens).all()


@PROCESSES
def test_an_average_of_a_voice_with_itself_is_that_voice(process: Process) -> None:
    found = measured(process, alone("small"), steady({"small": 1.0, "core": 1e-9}, average))
    assert found.sums[:, 1] == pytest.approx(found.sums[:, 0], rel=1e-5)


def test_a_mixture_lies_below_the_weighted_losses_of_its_members() -> None:
    # By the inequality of the means: the normaliser of a weighted geometric mean is at most 1.
    found = measured(Simplex(VOCABULARY), alone("core"), alone("small"), steady({"core": 0.5, "small": 0.5}))
    assert (found.sums[:, 2] < found.sums[:, :2].mean(1)).all()


def test_a_shared_blend_weighs_by_the_level() -> None:
    blend = shared(("core", "small"), 0.3, "simplex")
    assert {name: schedule(0.5) for name, schedule in blend.schedules.items()} == {"core": 0.7, "small": 0.3}
    found = measured(Simplex(VOCABULARY), blend, steady({"core": 0.7, "small": 0.3}))
    assert found.sums[:, 0] != pytest.approx(found.sums[:, 1], rel=1e-4)


def test_a_contrast_is_moved_by_what_a_voice_sees_and_by_nothing_else() -> None:
    process = Simplex(VOCABULARY)
    voices = {"core": voice(process, 0), "one": voice(process, 1), "same": voice(process, 1)}
    voices["seeing"] = voice(process, 1, both_sides)
    blends = [alone("core"), *(steady({"core": 1.0, name: 0.5, "one": -0.5}, contrast) for name in ("same", "seeing"))]
    core, unmoved, moved = measure_blends(voices, blends, gaps(), SETTINGS).sums.T
    assert unmoved == pytest.approx(core, rel=1e-6)
    assert moved != pytest.approx(core, rel=1e-5)
