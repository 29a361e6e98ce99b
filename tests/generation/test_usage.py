from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine.ensemble.schedules import Sandwich
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampler import time_grid
from ssdcli.generation.row import Usage


class Priced:
    """Reads at 1 FLOP a token of the prompt, then at 1 a block, and takes `step` more for each token that it sees."""

    def __init__(self, step: int) -> None:
        self.step = step

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        size = len(prompt.before)
        yield size, self.step * size
        for block in count(1):
            yield 1, self.step * (size + block)


class Flat:
    """Takes the same at every step, and reads for nothing."""

    def __init__(self, step: int) -> None:
        self.step = step

    def costs(self, prompt: Prompt) -> Iterator[tuple[int, int]]:
        while True:
            yield 0, self.step


PROMPTS = (Prompt([1] * 10), Prompt([1] * 20))


def test_each_member_is_charged_for_its_own_prompt_its_blocks_and_its_steps():
    usage = Usage([Priced(100), Priced(7)])
    usage.start(PROMPTS)
    usage.block([(0.5, 0.5)] * 3)
    usage.block([(0.5, 0.5)] * 2)
    assert usage.of(0) == (5, 10 + 3 * 1000 + 1 + 2 * 1100)
    assert usage.of(1) == (5, 20 + 3 * 140 + 1 + 2 * 147)
    assert usage.steps == 5
    assert usage.saved == 0


def test_a_member_of_negative_weight_is_run():
    usage = Usage([Flat(10), Flat(1), Flat(1)])
    usage.start((*PROMPTS, Prompt([1])))
    usage.block([(1.0, 0.5, -0.5)] * 4)
    assert [usage.of(i) for i in range(3)] == [(4, 40), (4, 4), (4, 4)]
    assert usage.saved == 0


def test_a_member_that_is_never_run_takes_nothing_and_spares_all_of_its_own():
    usage = Usage([Priced(1), Priced(1)])
    usage.start((PROMPTS[0], PROMPTS[0]))
    usage.block([(1.0, 0.0)] * 4)
    assert [usage.of(i) for i in range(2)] == [(4, 50), (0, 0)]
    assert usage.saved == 0.5


def test_a_member_that_joins_late_reads_what_was_written_before():
    usage = Usage([Flat(1), Priced(1)])
    usage.start(PROMPTS)
    usage.block([(1.0, 0.0)])
    usage.block([(1.0, 0.0)])
    usage.block([(1.0, 0.0), (0.5, 0.5)])
    assert usage.of(1) == (1, 20 + 1 + 1 + 22)


def test_another_stretch_is_read_anew_and_adds_up():
    usage = Usage([Priced(1)])
    for _ in range(3):
        usage.start(PROMPTS[:1])
        usage.block([(1.0,)] * 2)
    assert usage.of(0) == (6, 3 * (10 + 2 * 10))
    assert usage.steps == 6


def test_a_row_that_was_never_denoised_took_nothing():
    usage = Usage([Priced(1)])
    usage.start(PROMPTS[:1])
    assert (usage.of(0), usage.steps, usage.saved) == ((0, 0), 0, 0.0)


def test_a_sandwich_of_twelve_layers_and_four_saves_a_quarter_of_the_twelve():
    heavy = Sandwich(0.5, light=0.25)
    usage = Usage([Flat(12), Flat(4)])
    usage.start(PROMPTS)
    usage.block([(heavy(t), 0.5) for t in time_grid(1000)[:-1]])
    assert (usage.of(0), usage.of(1)) == ((750, 9000), (1000, 4000))
    assert usage.saved == pytest.approx(0.25 * 12 / 16)


@given(
    runs=st.lists(st.lists(st.tuples(*[st.sampled_from([0.0, 0.3, -0.5])] * 3), max_size=5), max_size=4),
    prices=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_what_is_spent_and_what_is_saved_make_up_the_whole(runs, prices):
    usage, everyone = Usage([Flat(p) for p in prices]), Usage([Flat(p) for p in prices])
    for each, weights in ((usage, runs), (everyone, [[(1.0, 1.0, 1.0)] * len(run) for run in runs])):
        each.start([Prompt([1])] * 3)
        for block in weights:
            each.block(block)
    spent, whole = (sum(each.of(i)[1] for i in range(3)) for each in (usage, everyone))
    assert spent == pytest.approx((1 - usage.saved) * whole)
    assert everyone.saved == 0
    assert 0 <= usage.saved <= 1
