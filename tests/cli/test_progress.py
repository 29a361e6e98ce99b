"""How a training is watched and stopped at a terminal."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console
from rich.progress import Progress

from ssdcli.cli.progress import pulse, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops_at_once(number):
    with stoppable() as stop:
        stop.in_step = True
        os.kill(os.getpid(), number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_a_signal_stops_at_once_where_no_step_is_taken():
    with stoppable() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert not stop.asked


def test_the_signals_are_handled_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError), stoppable():  # noqa: PT011 - any error will do
        raise ValueError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_bar_that_is_full_pulses_while_something_else_goes_on():
    bar = Progress(console=Console(file=io.StringIO()))
    bar.add_task("training", total=3, completed=3)
    pulse(bar, description="measuring")
    (task,) = bar.tasks
    assert (task.description, task.total) == ("measuring", None)
