from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.lib.segments import HEAVY, LIGHT, SEGMENTS, Levels, all_schedules, document_losses, shapes
from ssdcli.engine.process.masked import Masked
from ssdcli.evaluation.scored_text import ScoredText
from tests.tiny import VOCABULARY, tiny_backbone


def test_all_schedules_are_different_and_the_shapes_are_among_them() -> None:
    for heavy, count in ((0, 1), (2, 28), (4, 70), (8, 1)):
        schedules = all_schedules(heavy)
        assert len(set(schedules)) == len(schedules) == count
        assert set(shapes(heavy).values()) <= set(schedules)
        assert all(schedule.count(HEAVY) == heavy for schedule in schedules)


def test_a_schedule_loses_the_mean_of_what_runs_in_its_segments() -> None:
    heavy, light = np.arange(16.0).reshape(2, 8), np.full((2, 8), 100.0)
    levels = Levels(heavy, light, heavy, light, np.array([3, 5]))
    columns = levels.by_schedule([HEAVY * 8, LIGHT * 8, HEAVY + LIGHT * 7])
    assert columns.sums[0].tolist() == [3.5, 100.0, 87.5]


def test_the_heavy_member_is_the_core_or_both_and_is_apart_from_itself_by_nothing() -> None:
    one_text = ScoredText([0, *range(3, 40)], 1)
    core, small = tiny_backbone(0, process="masked"), tiny_backbone(1, process="masked")
    process = Masked(VOCABULARY, 1)
    alone = document_losses((core, small), process, one_text, 0.0, 0)
    both = document_losses((core, small), process, one_text, 0.4, 0)
    itself = document_losses((core, core), process, one_text, 0.4, 0)
    assert alone.shape == (SEGMENTS, 4)
    assert torch.equal(alone[:, 0], alone[:, 2])
    assert torch.equal(alone[:, :2], both[:, :2])
    assert (both[:, 2] < 0.6 * both[:, 0] + 0.4 * both[:, 1] + 1e-4).all()
    assert itself[:, 3].tolist() == pytest.approx([0.0] * SEGMENTS, abs=1e-4)
    assert itself[:, 1].tolist() == pytest.approx(itself[:, 2].tolist(), rel=1e-4)
