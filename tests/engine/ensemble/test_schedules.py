from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.schedules import Constant, Late, Leaning, Piecewise, Sandwich
from ssdcli.engine.sampler import time_grid


@st.composite
def halves(draw: st.DrawFn) -> tuple[int, int]:
    """A number of steps, and half of an even number of them."""
    steps = draw(st.integers(1, 1000))
    return steps, draw(st.integers(0, steps // 2))


@given(t=st.floats(0, 1), weight=st.floats(-2, 2))
def test_a_constant_is_the_same_everywhere(t, weight):
    assert Constant(weight)(t) == weight


@given(t=st.floats(0, 1), weight=st.floats(0.01, 0.99), slope=st.floats(-20, 20))
def test_a_share_that_leans_has_log_odds_on_a_line_through_its_own(t, weight, slope):
    leaning = Leaning(weight, slope)(t)
    share = leaning / (leaning + 1 - weight)
    expected = 1 / (1 + math.exp(-(math.log(weight / (1 - weight)) + slope * (t - 0.5))))
    assert share == pytest.approx(expected)


def assert_sandwich(steps: int, end: int, light: float) -> None:
    """The heavy member runs in all steps but `end` at each end."""
    weights = [Sandwich(0.7, light)(t) for t in time_grid(steps)[:-1]]
    assert weights == [0.0] * end + [0.7] * (steps - 2 * end) + [0.0] * end


@given(case=halves())
def test_a_sandwich_is_light_at_its_share_of_the_steps_half_at_each_end(case):
    steps, end = case
    assert_sandwich(steps, end, light=2 * end / steps)


def test_a_sandwich_keeps_its_share_at_every_small_number_of_steps():
    for steps in range(1, 65):
        for end in range(steps // 2 + 1):
            assert_sandwich(steps, end, light=2 * end / steps)


def test_a_quarter_of_a_thousand_steps_is_light():
    assert_sandwich(1000, 125, light=0.25)


@pytest.mark.parametrize(("steps", "light", "first"), [(8, 0.25, 2), (16, 0.5, 8), (7, 0.0, 0), (5, 1.0, 5)])
def test_a_late_member_is_left_out_of_its_share_of_the_steps_at_the_beginning(steps, light, first):
    weights = [Late(0.7, light)(t) for t in time_grid(steps)[:-1]]
    assert weights == [0.0] * first + [0.7] * (steps - first)


def test_a_sandwich_of_share_zero_runs_always_and_of_share_one_never():
    assert all(Sandwich(0.4, 0.0)(t) == 0.4 for t in time_grid(1000)[:-1])
    assert not any(Sandwich(0.4, 1.0)(t) for t in time_grid(1000))


@pytest.mark.parametrize("light", [-0.01, 1.01, math.inf, math.nan])
def test_a_share_outside_the_unit_interval_is_refused(light):
    with pytest.raises(ValueError, match="light must be between 0 and 1"):
        catalogue.schedule("sandwich").number.checked(light)


@pytest.mark.parametrize(
    ("t", "weight"),
    [(1.0, 0.0), (0.9, 0.0), (0.8, 0.0), (0.7, 0.1), (0.6, 0.2), (0.5, 0.3), (0.45, 0.6), (0.4, 0.9), (0.2, 0.9)],
)
def test_a_piecewise_weight_lies_on_lines_and_is_constant_outside_them(t, weight):
    schedule = Piecewise(((0.8, 0.0), (0.5, 0.3), (0.4, 0.9)))
    assert schedule(t) == pytest.approx(weight)


@st.composite
def polylines(draw: st.DrawFn) -> Piecewise:
    levels = draw(st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True))
    return Piecewise(tuple((t, draw(st.floats(-1, 1))) for t in sorted(levels, reverse=True)))


@given(schedule=polylines())
def test_a_piecewise_weight_goes_through_its_points(schedule):
    assert [schedule(t) for t, _ in schedule.points] == [weight for _, weight in schedule.points]


@given(schedule=polylines(), t=st.floats(0, 1))
def test_a_piecewise_weight_stays_between_the_weights_around_it(schedule, t):
    above = [w for level, w in schedule.points if level >= t][-1:]
    below = [w for level, w in schedule.points if level <= t][:1]
    around = above + below
    assert min(around) - 1e-12 <= schedule(t) <= max(around) + 1e-12


def test_between_two_weights_of_zero_a_member_does_not_run():
    schedule = Piecewise(((1.0, 0.0), (0.5, 0.0), (0.4, 1.0)))
    assert all(schedule(t) == 0 for t in time_grid(100) if t >= 0.5)


@pytest.mark.parametrize("points", [(), ((0.5, 1.0), (0.5, 0.0)), ((0.2, 1.0), (0.6, 0.0))])
def test_points_that_do_not_fall_are_refused(points):
    with pytest.raises(ValueError, match="falling noise levels"):
        Piecewise(points)
