from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from ssdcli.machine.threads import Threads, choice, same_threads, timed
from ssdcli.training import trainer
from ssdcli.training.job import train_small
from tests.trainings import STEPS, tiny_settings, write_text

QUIET = {2: 0.1, 1: 0.18}
BUSY = {2: 0.8, 1: 0.1}


class Machine:
    """A clock, and a training whose steps take as long as `seconds` says of the number of threads."""

    def __init__(self) -> None:
        self.now = 100.0
        self.threads = Threads(2, lambda: self.now)
        self.numbers = [2]

    def train(self, steps: int, seconds: Callable[[int], float]) -> list[int]:
        """The numbers of threads of so many steps."""
        before = len(self.numbers) - 1
        for _ in range(steps):
            self.threads.begin()
            self.now += seconds(self.numbers[-1])
            self.numbers.append(self.threads.end())
            self.now += 0.01  # between steps
        return self.numbers[before:-1]


def test_a_quiet_machine_keeps_all_threads_but_for_a_step_now_and_then():
    numbers = Machine().train(2000, QUIET.__getitem__)
    assert numbers.count(1) < 10
    trials = [place for place, number in enumerate(numbers) if number == 1]
    assert all(later - earlier > 1 for earlier, later in pairwise(trials)), "one slow step says enough"


def test_a_busy_machine_gets_one_thread_within_the_first_steps():
    numbers = Machine().train(1000, BUSY.__getitem__)
    assert numbers[:6] == [2, 2, 2, 2, 1, 1]
    assert numbers[4:].count(2) < 10


def test_threads_come_back_when_the_machine_is_quiet_again():
    machine = Machine()
    machine.train(50, BUSY.__getitem__)
    assert machine.train(1000, QUIET.__getitem__)[-200:].count(1) < 3


def test_a_machine_that_becomes_busy_is_noticed():
    machine = Machine()
    machine.train(50, QUIET.__getitem__)
    assert machine.train(500, BUSY.__getitem__)[-200:].count(2) < 3


def test_the_first_step_says_nothing():
    slow_start = iter([60.0] + [0.1] * 99)
    numbers = Machine().train(100, lambda number: next(slow_start) + 0.001 * (number == 1))
    assert numbers.count(1) < 10


def test_one_thread_is_all_there_is():
    threads = Threads(1)
    for _ in range(20):
        threads.begin()
        assert threads.end() == 1


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_training_of_so_many_steps_has_no_choice(two_threads):
    assert choice(repeatable=True) is None
    if not torch.cuda.is_available():
        assert choice(repeatable=False) is not None


def test_neither_has_one_of_several_processes(two_threads, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choice(repeatable=False) is None


class OneThread:
    """A choice that is always one thread, and notes with how many each step was taken."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def begin(self) -> None:
        self.used.append(torch.get_num_threads())

    def end(self) -> int:
        return 1


def test_a_training_takes_its_steps_with_the_threads_of_its_choice(two_threads, tmp_path, monkeypatch):
    chosen = OneThread()
    monkeypatch.setattr(trainer, "choice", lambda repeatable: chosen)
    train_small(tiny_settings(write_text(tmp_path / "notes.txt")))
    assert chosen.used == [2, *[1] * (STEPS - 1)]
    assert torch.get_num_threads() == 2


def test_torch_keeps_its_threads_after_a_training(two_threads):
    with same_threads():
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2


def test_steps_of_a_generator_are_timed_and_the_threads_restored_at_its_end():
    machine, before, seen = Machine(), torch.get_num_threads(), []

    def steps():
        for number in range(12):
            seen.append(torch.get_num_threads())
            machine.now += BUSY[seen[-1]]
            yield number

    torch.set_num_threads(2)
    try:
        found = []
        for number in timed(steps(), machine.threads):
            machine.now += 0.3  # what happens to a step is not timed
            found.append(number)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == list(range(12))
    assert seen[:4] == [2, 2, 2, 2]
    assert seen[4:] == [1] * 8


def test_steps_are_left_as_they_are_without_a_choice():
    before = torch.get_num_threads()
    assert [torch.get_num_threads() for _ in timed(iter(range(3)), None)] == [before] * 3
