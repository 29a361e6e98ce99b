from __future__ import annotations

import numpy as np
import pytest
import torch

from ssdcli.training.windows import Windows


def stream(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)


def epoch(windows: Windows, number: int) -> list[list[int]]:
    first = number * windows.per_epoch
    return [windows[i]["tokens"].tolist() for i in range(first, first + windows.per_epoch)]


@pytest.mark.parametrize(("count", "length"), [(100, 10), (64, 16), (7, 7), (30, 1)])
def test_an_epoch_visits_every_token_exactly_once(count, length):
    windows = Windows(stream(count), length, seed=3, samples=1000)
    for number in range(4):
        visited = sorted(token for window in epoch(windows, number) for token in window)
        assert visited == list(range(count))


@pytest.mark.parametrize(("count", "length"), [(101, 10), (64, 15), (13, 7), (99, 98)])
def test_an_epoch_of_a_stream_that_does_not_divide_repeats_less_than_a_window(count, length):
    windows = Windows(stream(count), length, seed=3, samples=1000)
    for number in range(4):
        visited = [token for window in epoch(windows, number) for token in window]
        assert set(visited) == set(range(count))
        assert len(visited) < count + length


def test_a_window_is_a_stretch_of_the_stream_that_may_go_on_from_its_start():
    windows = Windows(stream(100), 16, seed=0, samples=1000)
    for window in epoch(windows, 0) + epoch(windows, 1):
        assert window == [(window[0] + i) % 100 for i in range(16)]


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_short_stream_is_repeated(count):
    windows = Windows(stream(count), 10, seed=0, samples=5)
    for i in range(5):
        tokens = windows[i]["tokens"].tolist()
        assert tokens == [(tokens[0] + j) % count for j in range(10)]


def test_a_sample_is_the_same_whichever_was_asked_before():
    windows = Windows(stream(1000), 16, seed=5, samples=500)
    expected = {i: Windows(stream(1000), 16, seed=5, samples=500)[i]["tokens"] for i in range(200)}
    for i in [*range(200), *range(199, -1, -1), *np.random.default_rng(0).permutation(200).tolist()]:
        assert torch.equal(windows[i]["tokens"], expected[i])


def test_epochs_are_shuffled_and_cut_anew():
    windows = Windows(stream(1000), 10, seed=5, samples=10_000)
    first, second = epoch(windows, 0), epoch(windows, 1)
    assert first != sorted(first)
    assert sorted(first) != sorted(second)
    phases = {epoch(windows, number)[0][0] % 10 for number in range(100)}
    assert len(phases) == 10


def test_other_seeds_give_another_order():
    orders = {str(epoch(Windows(stream(200), 10, seed, 100), 0)) for seed in range(5)}
    assert len(orders) == 5


def test_a_sample_is_ready_for_the_objective():
    windows = Windows(stream(100), 8, seed=0, samples=123)
    sample = windows[17]
    assert len(windows) == 123
    assert sample["tokens"].dtype == torch.int64
    assert sample["tokens"].shape == (8,)
    assert sample["index"].item() == 17


def test_the_stream_is_only_read():
    tokens = stream(100)
    tokens.flags.writeable = False
    windows = Windows(tokens, 8, seed=0, samples=123)
    windows[3]["tokens"].add_(1)
    assert tokens.tolist() == list(range(100))
