from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssdcli.engine.sampling.stopping import EarlyStop, Quorum

V = 4
SURE, UNSURE = 0.999, 0.7  # probabilities of the likeliest token: mean entropies of 0.009 and 0.94 nats


def said(*tokens: int, p: float) -> Tensor:
    """Log p (1, L, V) of a row whose likeliest tokens are these."""
    return torch.full((1, len(tokens), V), (1 - p) / (V - 1)).scatter(-1, torch.tensor([tokens])[..., None], p).log()


def stops(stop: EarlyStop, steps: list[Tensor]) -> list[list[bool]]:
    """Which rows stop at each step."""
    settling, stopped = None, []
    for log_p in steps:
        settling, rows = stop.settle(settling, log_p)
        stopped.append(rows.tolist())
    return stopped


def test_a_row_that_is_stable_but_unsure_goes_on():
    assert stops(EarlyStop(entropy=0.1), [said(1, 2, p=UNSURE)] * 5) == [[False]] * 5


def test_a_row_that_is_sure_but_changes_its_mind_goes_on():
    steps = [said(1, 2, p=SURE), said(1, 3, p=SURE)] * 3
    assert stops(EarlyStop(entropy=0.1), steps) == [[False]] * 6


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_row_that_is_sure_stops_once_it_was_stable_for_so_many_steps(steps):
    sequence = [said(1, 2, p=SURE), said(3, 2, p=SURE), *[said(3, 0, p=SURE)] * 4]
    expected = [[index >= 2 + steps] for index in range(6)]
    assert stops(EarlyStop(entropy=0.1, steps=steps), sequence) == expected


def test_unsure_steps_count_as_stable_ones():
    sequence = [said(1, 2, p=UNSURE), said(1, 2, p=UNSURE), said(1, 2, p=SURE)]
    assert stops(EarlyStop(entropy=0.1, steps=2), sequence) == [[False], [False], [True]]


def test_a_change_of_mind_starts_the_count_again():
    sequence = [*[said(1, 2, p=UNSURE)] * 5, *[said(1, 3, p=SURE)] * 4]
    assert stops(EarlyStop(entropy=0.1, steps=2), sequence) == [[index >= 7] for index in range(9)]


def test_the_bound_is_on_the_mean_entropy_of_a_rows_positions():
    half_sure = torch.cat([said(1, p=SURE), said(2, p=UNSURE)], dim=1)
    assert stops(EarlyStop(entropy=0.46), [half_sure] * 2) == [[False], [False]]
    assert stops(EarlyStop(entropy=0.48), [half_sure] * 2) == [[False], [True]]


def test_certainty_has_no_entropy():
    certain = said(1, 2, p=1.0)
    assert certain.isneginf().any()
    assert stops(EarlyStop(0.005), [certain] * 2) == [[False], [True]]


def test_each_row_stops_for_itself():
    stable, fickle = [said(1, 2, p=SURE)] * 4, [said(1, 2, p=SURE), said(1, 3, p=SURE)] * 2
    late, unsure = [said(0, 2, p=SURE), *[said(1, 2, p=SURE)] * 3], [said(1, 2, p=UNSURE)] * 4
    rows = [stable, fickle, late, unsure]
    together = stops(EarlyStop(entropy=0.1), [torch.cat(step) for step in zip(*rows, strict=True)])
    alone = [stops(EarlyStop(entropy=0.1), row) for row in rows]
    assert together == [[row[step][0] for row in alone] for step in range(4)]
    assert together[2] == [True, False, True, False]


@pytest.mark.parametrize(("done", "reached"), [([True, True], True), ([True, False], False), ([False], False)])
def test_a_quorum_is_all_rows(done, reached):
    assert Quorum().reached(torch.tensor(done)) is reached


class FarTensor:
    """A row mask on a GPU whose answers arrive when the test says so."""

    is_cuda = True
    device = "cuda"

    def __init__(self, done: bool) -> None:
        self.done = torch.tensor(done)

    def all(self) -> FarTensor:
        return self

    def to(self, device: str, non_blocking: bool) -> Tensor:
        assert (device, non_blocking) == ("cpu", True)
        return self.done


class Stream:
    """Hands out itself as the event that all copies wait for."""

    arrived = False

    def record_event(self) -> Stream:
        return self

    def query(self) -> bool:
        return self.arrived


def test_on_a_gpu_a_quorum_answers_what_was_so_when_it_asked_and_asks_again_after_a_no(monkeypatch):
    stream, quorum = Stream(), Quorum()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    assert not quorum.reached(FarTensor(False))
    assert not quorum.reached(FarTensor(True))
    stream.arrived = True
    assert not quorum.reached(FarTensor(True))  # the first question's answer
    stream.arrived = False
    assert not quorum.reached(FarTensor(True))
    stream.arrived = True
    assert quorum.reached(FarTensor(True))
