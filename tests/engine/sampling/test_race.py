"""Tokens drawn by a race."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling import nucleus, race
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race


def drawn(picker: Picker, log_p: Tensor, count: int, seed: int = 0) -> Tensor:
    places = torch.arange(count)
    own = Race.of(picker, CounterNoise([seed]), 0)
    return own.winners(log_p.expand(count, -1), torch.zeros_like(places), places)


@pytest.mark.parametrize(
    "picker", [Picker(), Picker(0.6), Picker(top_p=0.7), Picker(1.4, 0.9, 0.05), Picker(0.9, 1e-9)]
)
def test_tokens_have_the_distribution_of_the_nucleus(picker):
    log_p = torch.log_softmax(torch.randn(300, generator=torch.Generator().manual_seed(1)) * 2, -1)
    count = 20_000
    p = picker.probabilities(log_p)
    expected = count * p / p.sum()
    seen = torch.bincount(drawn(picker, log_p, count), minlength=300).float()
    assert float(seen[expected == 0].sum()) == 0
    often = expected > 5
    statistic, freedom = float(((seen - expected) ** 2 / expected)[often].sum()), max(int(often.sum()) - 1, 1)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_no_temperature_takes_the_likeliest():
    log_p = torch.log_softmax(torch.randn(50, 40), -1)
    own = Race.of(Picker(0.0), CounterNoise([1]), 0)
    assert torch.equal(own.winners(log_p, torch.zeros(50, dtype=torch.int64), torch.arange(50)), log_p.argmax(-1))


def test_a_place_draws_the_same_alone_and_among_others_and_from_any_block():
    log_p = torch.log_softmax(torch.randn(6, 5000) * 2, -1)
    rows, places = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 9, 3, 4, 9, 0])
    noise, picker = CounterNoise([5, 6, 7]), Picker(0.8, 0.9)
    together = Race.of(picker, noise, 16).winners(log_p, rows, places)
    for i, (row, place) in enumerate(zip(rows.tolist(), places.tolist(), strict=True)):
        alone = Race.of(picker, CounterNoise([5 + row]), 0)
        assert alone.winners(log_p[[i]], torch.tensor([0]), torch.tensor([16 + place])) == together[i]


def test_draws_by_distributions_that_are_alike_mostly_agree():
    scores = torch.randn(200, generator=torch.Generator().manual_seed(2))
    one, other = (torch.log_softmax(x, -1) for x in (scores, scores + 0.3 * torch.randn(200)))
    same = (drawn(Picker(), one, 4000) == drawn(Picker(), other, 4000)).double().mean()
    apart = float((one.exp() - other.exp()).abs().sum() / 2)
    assert float(same) > (1 - apart) / (1 + apart) - 0.03  # the bound of Daliri, Musco and Suresh
    assert float((drawn(Picker(), one, 4000) == drawn(Picker(), one, 4000, seed=1)).double().mean()) < 0.1


def test_a_winner_among_some_is_that_of_all_others_excluded():
    log_p = torch.log_softmax(torch.randn(100, generator=torch.Generator().manual_seed(3)), -1)
    ids = torch.tensor([3, 17, 50, 99])
    only = torch.full((100,), -math.inf).index_put((ids,), log_p[ids])
    for temperature in (0.0, 0.5, 1.0):
        own = Race.of(Picker(temperature), CounterNoise([4, 8]), 3)
        for place in range(20):
            among = own.winners(only.log_softmax(-1)[None], torch.tensor([1]), torch.tensor([place]))
            assert int(ids[own.winner(ids, log_p[ids], 1, place)]) == int(among)


def test_a_device_draws_what_the_host_draws(monkeypatch):
    log_p = torch.log_softmax(torch.randn(64, 3000) * 3, -1)
    rows, places = torch.zeros(64, dtype=torch.int64), torch.arange(64)
    for picker in (Picker(), Picker(top_p=0.5), Picker(0.7, 0.95, 0.01)):
        own = Race.of(picker, CounterNoise([1]), 0)
        expected = own.winners(log_p, rows, places)
        with monkeypatch.context() as patched:
            for module in (race, nucleus):
                patched.setattr(module, "readable", lambda x: False)
            assert torch.equal(own.winners(log_p, rows, places), expected)
