from __future__ import annotations

import numpy as np
import pytest

from ssdcli.engine.process.simplex import Simplex
from ssdcli.evaluation.losses import LossSettings, Passage, measure
from ssdcli.evaluation.sweep import GRID, best_weight

ONES, TWOS = [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]


def test_the_grid_goes_from_the_core_alone_to_the_small_model_alone():
    assert pytest.approx(np.linspace(0, 1, 11)) == GRID
    assert (GRID[0], GRID[-1]) == (0, 1)


@pytest.mark.parametrize(
    ("ones", "twos", "best"),
    [
        pytest.param(8, 8, 0.5, id="each knows half"),
        pytest.param(0, 16, 1.0, id="the small model knows all"),
        pytest.param(16, 0, 0.1, id="the core knows all, but the small model always takes part"),
    ],
)
def test_the_best_weight_is_the_one_of_the_least_loss(unconditional, ones, twos, best):
    passages = [Passage([0, *[1, 2] * min(ones, twos), *[1] * (ones - twos), *[2] * (twos - ones)], 16)] * 2
    losses = measure([unconditional(ONES), unconditional(TWOS)], Simplex(3), passages, GRID, LossSettings(8))
    assert best_weight(losses) == best
    nats = losses.nats_per_token()
    assert nats[losses.place(best)] == nats[1:].min()
