from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ssdcli.training.plan import Budget, Plan


class Clock:
    """A clock that only moves when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Pace = Callable[[int, float], float]  # seconds of a step, by its number and the seconds so far


def train(plan: Plan, clock: Clock, pace: Pace, step: int = 0, until: int = 10**6) -> tuple[int, list[float]]:
    """Take steps of pace(step, seconds so far) each until the plan is done; returns steps and rates."""
    plan.start()
    begun, rates = clock.now, []
    while not plan.done(step) and step < until:
        rates.append(plan.rate(step))
        clock.now += pace(step, clock.now - begun)
        step += 1
        plan.observe(step)
    return step, rates


def timed(seconds: float, **changes: Any) -> tuple[Plan, Clock]:
    clock = Clock()
    return Plan(Budget(seconds=seconds), clock=clock, **changes), clock


def constant(seconds: float) -> Pace:
    return lambda *_: seconds


def changing(at: float, pace: float) -> Pace:
    """One second a step, and another pace after so many seconds."""
    return lambda _, now: 1 if now < at else pace


STEADY = constant(1)
PACES: dict[str, Pace] = {
    "steady": STEADY,
    "a slow first step": lambda step, _: 50 if step == 0 else 1,
    "wavering": lambda step, _: 1 + 0.5 * ((step * 7919) % 13 - 6) / 6,
    "slower after a fifth": changing(200, 2),
    "faster after two fifths": changing(400, 0.5),
    "slower after two fifths": changing(400, 2),
    "slower after half": changing(500, 2),
    "slower while the rate falls": changing(700, 1.5),
    "getting slower": lambda _, now: 1 + now / 1000,
}


@pytest.mark.parametrize("scale", [1, 0.1])
@pytest.mark.parametrize("pace", PACES)
def test_a_time_budget_is_kept_within_a_tenth_under_any_pace(pace, scale):
    plan, clock = timed(1000)
    begun = clock.now
    steps, rates = train(plan, clock, lambda step, now: PACES[pace](step, now) * scale)
    assert clock.now - begun == pytest.approx(1000, rel=0.1)
    assert steps == plan.total
    assert rates[-1] < 0.02  # the rate has fallen by the end, whenever that is


def test_a_time_budget_leaves_room_for_the_overhead():
    plan, clock = timed(1000, overhead=300)
    begun = clock.now
    train(plan, clock, STEADY)
    assert clock.now - begun == pytest.approx(700, rel=0.02)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0])
def test_a_budget_of_few_slow_steps_is_not_much_overdrawn(seconds):
    plan, clock = timed(seconds)
    begun = clock.now
    train(plan, clock, constant(5))
    assert clock.now - begun <= seconds + 2 * 5


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_a_budget_of_steps_is_exact_at_any_pace(steps):
    clock = Clock()
    plan = Plan(Budget(steps=steps), clock=clock)
    assert train(plan, clock, PACES["wavering"])[0] == steps
    assert plan.done(steps)
    assert not plan.done(steps - 1)


def test_the_rate_warms_up_holds_and_falls_to_zero():
    plan = Plan(Budget(steps=1000), warmup=50, decay=0.4)
    rates = [plan.rate(step) for step in range(1001)]
    assert rates[:50] == pytest.approx([(i + 1) / 50 for i in range(50)])
    assert rates[50:600] == [1.0] * 550
    assert rates[600:] == pytest.approx([(1000 - i) / 400 for i in range(600, 1001)])
    assert rates[1000] == 0


@pytest.mark.parametrize("total", [1, 2, 5, 10, 60])
def test_a_short_training_warms_up_in_no_more_than_a_fifth(total):
    plan = Plan(Budget(steps=total), warmup=50, decay=0.4)
    rates = [plan.rate(step) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == rates[max(1, total // 5) - 1] == 1


def test_neither_warm_up_nor_decay_is_needed():
    plan = Plan(Budget(steps=10), warmup=0, decay=0.0)
    assert [plan.rate(step) for step in range(10)] == [1.0] * 10


@pytest.mark.parametrize("seconds", [30, 100, 1000])
def test_the_rate_of_a_timed_training_rises_once_and_falls_once(seconds):
    plan, clock = timed(seconds)
    _, rates = train(plan, clock, STEADY)
    top = rates.index(max(rates))
    assert rates[top] == 1
    assert all(a <= b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert rates[0] <= 0.2


def test_the_pace_is_that_of_recent_steps_and_unknown_at_first():
    plan, clock = timed(10_000)
    plan.start()
    paces = []
    for step in range(1, 500):
        clock.now += 30 if step == 1 else 2 if step < 200 else 1
        plan.observe(step)
        paces.append(plan.seconds_per_step())
    assert paces[:7] == [None] * 7
    assert paces[7:190] == pytest.approx([2] * 183)
    assert paces[-1] == pytest.approx(1)


def test_time_is_counted_from_the_start_of_training():
    plan, clock = timed(100)
    clock.now += 1000
    assert plan.elapsed == 0
    plan.start()
    clock.now += 5
    assert plan.elapsed == 5


@pytest.mark.parametrize("stopped_at", [5, 300, 800])
def test_a_resumed_training_takes_the_rest_of_its_time(tmp_path: Path, stopped_at):
    plan, clock = timed(1000)
    step, _ = train(plan, clock, STEADY, until=stopped_at)
    plan.save(tmp_path)
    resumed, later = timed(1000)
    resumed.restore(tmp_path)
    assert resumed.elapsed == plan.elapsed == stopped_at
    assert resumed.total == plan.total
    last, rates = train(resumed, later, STEADY, step=step)
    assert last == pytest.approx(1000, rel=0.02)
    assert resumed.elapsed == pytest.approx(1000, rel=0.02)
    assert rates[-1] < 0.02


def test_a_resumed_training_by_steps_goes_on_as_if_never_stopped(tmp_path: Path):
    plan = Plan(Budget(steps=100), clock=Clock())
    train(plan, Clock(), STEADY, until=40)
    plan.save(tmp_path)
    resumed = Plan(Budget(steps=100), clock=Clock())
    resumed.restore(tmp_path)
    assert [resumed.rate(i) for i in range(40, 101)] == [plan.rate(i) for i in range(40, 101)]


def test_a_new_budget_wins_over_the_saved_one(tmp_path: Path):
    plan, clock = timed(100)
    train(plan, clock, STEADY)
    plan.save(tmp_path)
    longer, _ = timed(300)
    longer.restore(tmp_path)
    assert not longer.done(100)
    assert longer.elapsed == 100
    by_steps = Plan(Budget(steps=250), clock=Clock())
    by_steps.restore(tmp_path)
    assert by_steps.total == 250


@pytest.mark.parametrize("by", ["time", "steps"])
def test_a_training_that_winds_down_ends_after_the_steps_it_is_given(tmp_path: Path, by):
    plan, clock = timed(1000) if by == "time" else (Plan(Budget(steps=1000), clock=Clock()), Clock())
    step, before = train(plan, clock, STEADY, until=300)
    plan.wind_down(step, 100)
    plan.save(tmp_path)
    last, after = train(plan, clock, STEADY, step=step)
    assert last == 400
    assert before[-1] == pytest.approx(after[0]) == 1
    assert after == sorted(after, reverse=True)
    assert after[-1] < 0.02
    resumed = Plan(plan.budget, clock=Clock())
    resumed.restore(tmp_path)
    assert [resumed.rate(i) for i in range(300, 401)] == [plan.rate(i) for i in range(300, 401)]


def test_a_training_that_ends_anyway_does_not_end_later():
    for at, steps in ((650, 10), (999, 500), (550, 500), (300, 0)):
        plan = Plan(Budget(steps=1000), clock=Clock())
        plan.wind_down(at, steps)
        assert plan.total == 1000
    unplanned, _ = timed(1000)
    unplanned.wind_down(3, 10)
    assert unplanned.total is None


def test_no_more_steps_are_taken_than_are_worth_it():
    clock = Clock()
    plan = Plan(Budget(seconds=1000, most=120), clock=clock)
    last, rates = train(plan, clock, STEADY)
    assert last == 120
    assert rates[71] == pytest.approx(1)
    assert rates[-1] < 0.03
    enough = Plan(Budget(seconds=100, most=500), clock=(later := Clock()))
    assert train(enough, later, STEADY)[0] == pytest.approx(100, rel=0.02)
