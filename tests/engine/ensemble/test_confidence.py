from __future__ import annotations

import math

import pytest

from ssdcli.engine.ensemble.confidence import Confidence

P = (0.9, 0.5, 0.25)


def test_unless_it_is_fitted_it_is_the_probability_of_the_text() -> None:
    assert Confidence().of(P) == math.prod(P)
    assert Confidence().of([]) == 1.0


def test_its_offset_and_slope_are_of_the_log_odds() -> None:
    odds = math.exp(-0.5 + 2 * math.log(0.9 / 0.1))
    assert Confidence(-0.5, 2.0).of([0.9]) == pytest.approx(odds / (1 + odds))


@pytest.mark.parametrize("sure", [Confidence(-0.4, 0.8), Confidence(0.3, 1.5), Confidence(50.0, 50.0)])
def test_it_rises_with_each_probability_and_falls_with_each_token(sure: Confidence) -> None:
    rising = [sure.of([p]) for p in (0.0, 1e-30, 0.01, 0.5, 0.99, 1.0)]
    assert rising == sorted(rising)
    assert all(0 <= one <= 1 for one in rising)
    assert sure.of([*P, 0.5]) == pytest.approx(sure.of(P) * sure.of([0.5]))
