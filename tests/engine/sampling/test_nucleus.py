from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.sampling import nucleus
from ssdcli.engine.sampling.nucleus import Picker, entropy, keep_nucleus

SLACK = 5.0  # standard deviations
TOP_PS = [0.0503, 0.2507, 0.5009, 0.9011]  # no sum of a few small fractions comes near them


class Fixed:
    """Noise whose every round is the same two numbers: one for the block of tokens, one for the token in it."""

    def __init__(self, block: float, token: float | torch.Tensor) -> None:
        self.pair = block, token

    def derive(self, *words: int) -> Fixed:
        return self

    def uniform(self, *shape: int) -> torch.Tensor:
        drawn = torch.empty(1, *shape)
        drawn[:, :, 0], drawn[:, :, 1] = self.pair
        return drawn

    def normal(self, *shape: int) -> torch.Tensor:
        raise NotImplementedError


def nucleus_by_sorting(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep a row's tokens from the likeliest on, all of one probability at once, until they hold top_p."""
    values, counts = p.unique(sorted=True, return_counts=True)
    masses = (values.double() * counts).flip(0)
    above = (masses.cumsum(0) - masses).flip(0)
    return torch.where(torch.isin(p, values[above < top_p]), p, 0)


def distributions(vocabulary: int, sharpness: float, rows: int = 8) -> torch.Tensor:
    torch.manual_seed(vocabulary)
    return torch.softmax(torch.randn(rows, vocabulary) * sharpness, dim=-1)


def zipf(vocabulary: int) -> torch.Tensor:
    """A prediction as language models make them: log p falls with the logarithm of the rank, in random order."""
    torch.manual_seed(vocabulary)
    return torch.log_softmax(-1.1 * (torch.randperm(vocabulary) + 1.0).log(), dim=-1)


def drawn(picker: Picker, log_p: torch.Tensor, count: int, key: int = 1) -> torch.Tensor:
    """Draw so many tokens from one prediction (V): (count,) int64."""
    return picker.draw(log_p.expand(1, count, -1), CounterNoise([key]))[0]


def chi_square(tokens: torch.Tensor, weights: torch.Tensor) -> float:
    """How far frequencies are from those of the weights, in standard deviations (Wilson and Hilferty, 1931)."""
    expected = weights.double() / weights.double().sum() * len(tokens)
    observed = torch.bincount(tokens, minlength=len(weights)).double()
    possible = expected > 0
    assert observed[~possible].sum() == 0
    statistic = ((observed - expected)[possible] ** 2 / expected[possible]).sum()
    freedom = max(int(possible.sum()) - 1, 1)
    spread = 2 / (9 * freedom)
    return (float(statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


weights = st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 17, 256, 5000])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_the_sorted_definition(vocabulary, sharpness, top_p):
    p = distributions(vocabulary, sharpness)
    kept = keep_nucleus(p, top_p)
    least, most = (torch.stack([nucleus_by_sorting(row, top_p + away) for row in p]) for away in (-5e-7, 5e-7))
    assert bool((least <= kept).all())  # a sum of float32 may miss a border by so much
    assert bool((kept <= most).all())
    assert torch.equal(kept, p * (kept > 0))
    assert torch.equal(p, distributions(vocabulary, sharpness))


@given(weights, st.sampled_from(TOP_PS))
def test_the_nucleus_is_that_of_the_sorted_definition_with_ties_and_impossible_tokens(counts, top_p):
    p = torch.tensor(counts) / sum(counts)
    assert torch.equal(keep_nucleus(p, top_p), nucleus_by_sorting(p, top_p))


@pytest.mark.parametrize("top_p", [0.1, 0.25, 0.3, 0.5, 0.75, 0.8, 0.99])
def test_equally_likely_tokens_stay_or_go_together(top_p):
    p = torch.tensor([[0.125, 0.25, 0.125, 0.25, 0.0, 0.25], [0.0625] * 4 + [0.75, 0.0], [1, 0, 0, 0, 0, 0]])
    assert torch.equal(keep_nucleus(p, top_p), torch.stack([nucleus_by_sorting(row, top_p) for row in p]))


def test_a_token_stays_only_while_the_likelier_hold_less_than_top_p():
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    assert keep_nucleus(p, 0.5).tolist() == [0.5, 0, 0, 0]
    assert keep_nucleus(p, 0.5001).tolist() == [0.5, 0.25, 0, 0]
    assert keep_nucleus(p, 0.75).tolist() == [0.5, 0.25, 0, 0]
    assert keep_nucleus(p, 0.7501).tolist() == p.tolist()
    for top_p, possible in ((0.5, {0}), (0.5001, {0, 1}), (0.75, {0, 1}), (0.7501, {0, 1, 2, 3})):
        assert set(drawn(Picker(top_p=top_p), p.log(), 300).tolist()) == possible


def test_the_nucleus_of_each_position_is_its_own_in_any_shape_and_layout():
    p = distributions(40, 2.0, rows=12)
    kept = keep_nucleus(p, 0.7)
    assert torch.equal(keep_nucleus(p.view(3, 4, 40), 0.7), kept.view(3, 4, 40))
    assert torch.equal(keep_nucleus(p.T.contiguous().T, 0.7), kept)


def test_subnormal_and_zero_probabilities_are_ordered_too():
    p = torch.tensor([1.0, 1e-30, 1e-40, 0.0])
    assert torch.equal(keep_nucleus(p, 0.999), torch.tensor([1.0, 0, 0, 0]))
    assert torch.equal(keep_nucleus(p, 1.5), p)


@given(weights, st.sampled_from([*TOP_PS, 1.0]))
def test_tokens_are_drawn_from_the_sorted_nucleus_and_from_all_of_it_by_weight(counts, top_p):
    p = torch.tensor(counts) / sum(counts)
    kept = nucleus_by_sorting(p, top_p) if top_p < 1 else p
    tokens = drawn(Picker(top_p=top_p), p.log(), 4000)
    assert set(tokens.tolist()) == set(kept.nonzero()[:, 0].tolist())
    assert chi_square(tokens, kept) < SLACK


@pytest.mark.parametrize("picker", [Picker(), Picker(0.7), Picker(1.3, top_p=0.8), Picker(top_p=0.5), Picker(2.0, 0.1)])
@pytest.mark.parametrize("vocabulary", [7, 300, 50_265])
def test_drawn_frequencies_are_the_probabilities(picker, vocabulary):
    log_p = zipf(vocabulary).index_fill(0, torch.tensor([1]), -math.inf)
    p = picker.probabilities(log_p)
    tokens = torch.cat([drawn(picker, log_p, min(10_000, 2_000_000 // vocabulary), key) for key in range(4)])
    assert (p[tokens] > 0).all()
    ranks = p.argsort(descending=True)
    bins = torch.empty_like(ranks).scatter_(0, ranks, (p[ranks].cumsum(0) / p.sum() * 12).long().clamp(max=11))
    assert chi_square(bins[tokens], torch.zeros(12).scatter_add_(0, bins, p)) < SLACK


@pytest.mark.parametrize("picker", [Picker(temperature=0.0), Picker(top_p=1e-9), Picker(temperature=1e-7)])
@pytest.mark.parametrize("vocabulary", [1, 300])
def test_no_temperature_and_the_smallest_nucleus_are_greedy(picker, vocabulary):
    torch.manual_seed(1)
    log_p = torch.log_softmax(torch.randn(5, 6, vocabulary), dim=-1)
    picked = picker.draw(log_p, CounterNoise(range(5)))
    assert torch.equal(picked, log_p.argmax(-1))
    assert picked.dtype == torch.int64


def test_a_nucleus_of_nothing_is_greedy():
    log_p = torch.tensor([0.2, 0.7, 0.1]).log()
    assert Picker(top_p=0.0).probabilities(log_p).count_nonzero() == 1
    assert (drawn(Picker(top_p=0.0), log_p, 50) == 1).all()


def test_the_probabilities_are_those_of_the_temperature_within_the_nucleus():
    log_p = torch.tensor([0.5, 0.25, 0.2, 0.05]).log()
    squared = torch.tensor([0.25, 0.0625, 0.04, 0.0025])
    torch.testing.assert_close(Picker(temperature=0.5).probabilities(log_p), squared / squared.sum())
    kept = Picker(temperature=0.5, top_p=0.8).probabilities(log_p)
    torch.testing.assert_close(kept, torch.tensor([0.25, 0.0625, 0, 0]) / squared.sum())


def test_excluded_tokens_have_no_probability_at_any_temperature():
    log_p = torch.tensor([0.5, 0.0, 0.5]).log()
    for picker in (Picker(), Picker(0.0), Picker(0.3), Picker(5.0), Picker(1.0, 0.9)):
        assert picker.probabilities(log_p)[1] == 0


@pytest.mark.parametrize("vocabulary", [3, 64, 5000])
@pytest.mark.parametrize("top_p", [0.3, 1.0])
def test_an_excluded_token_is_never_drawn_even_at_the_ends_of_the_interval(vocabulary, top_p):
    torch.manual_seed(3)
    logits = torch.randn(1, 200, vocabulary)
    logits[torch.rand(logits.shape) < 0.7] = -math.inf
    logits[..., 0] = logits[..., -1] = -math.inf
    logits[..., 1] = -9
    log_p = torch.log_softmax(logits, dim=-1)
    for u in (2**-24, 0.5, 1 - 2**-24):
        tokens = Picker(top_p=top_p).draw(log_p, Fixed(u, u))
        assert log_p.gather(-1, tokens[..., None]).isfinite().all()


def test_rounding_in_a_sum_taken_in_parallel_draws_no_excluded_token(monkeypatch):
    log_p = torch.tensor([0.0, 0.25, 0.0, 0.0, 0.5, 0.0, 0.25, 0.0]).log()
    exact = torch.Tensor.cumsum
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, dim: exact(x + 0.01, dim))
    assert set(drawn(Picker(), log_p, 2000).tolist()) == {1, 4, 6}


def test_the_ends_of_the_interval_draw_the_first_and_the_last_token():
    log_p = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]]).log()[None]
    assert Picker().draw(log_p, Fixed(2**-24, 2**-24)).item() == 1
    assert Picker().draw(log_p, Fixed(1 - 2**-24, 1 - 2**-24)).item() == 4


def test_tokens_less_likely_than_the_steps_of_a_uniform_number_keep_their_share():
    p = torch.zeros(256)
    p[0], p[128:] = 1, 2**-31
    steps = (torch.arange(128) + 0.5) / 128
    tokens = Picker().draw(p.log().expand(1, 128, -1), Fixed(1 - 2**-24, steps))
    assert tokens[0].tolist() == list(range(128, 256))


@pytest.mark.parametrize("picker", [Picker(), Picker(0.8, 0.9), Picker(top_p=0.3)])
def test_a_row_draws_the_same_alone_and_among_others_on_any_number_of_threads(picker):
    torch.manual_seed(5)
    log_p = torch.log_softmax(torch.randn(4, 2, 50_265) * 3, dim=-1)
    tokens, doubt, kept = picker.draw(log_p, CounterNoise(range(4))), entropy(log_p), keep_nucleus(log_p.exp(), 0.9)
    assert len(tokens.unique()) > 3
    for threads in (2, 1):
        torch.set_num_threads(threads)
        for row in range(4):
            assert torch.equal(picker.draw(log_p[[row]], CounterNoise([row]))[0], tokens[row])
            one = log_p[[row], :1]
            assert torch.equal(entropy(one)[0, 0], doubt[row, 0])
            assert torch.equal(keep_nucleus(one.exp(), 0.9), kept[[row], :1])


def test_rounds_on_a_device_draw_what_the_host_draws(monkeypatch):
    """On a GPU the loop cannot end early, nor leave out the rows that have their token."""
    log_p = torch.stack([zipf(3000).roll(shift) * scale for shift, scale in ((0, 1), (7, 0.5), (900, 2))])
    log_p = log_p.log_softmax(-1).repeat(4, 50, 1)
    for top_p in (0.05, 0.5, 0.95):
        expected = Picker(top_p=top_p).draw(log_p, CounterNoise(range(4)))
        with monkeypatch.context() as patched:
            patched.setattr(nucleus, "readable", lambda x: False)
            assert torch.equal(Picker(top_p=top_p).draw(log_p, CounterNoise(range(4))), expected)


@pytest.mark.parametrize("top_p", [1e-9, 0.01, 0.1, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("vocabulary", [1, 300, 262_144])
def test_there_are_just_as_many_rounds_as_leave_one_draw_in_sixteen_million_open(top_p, vocabulary):
    rounds = nucleus.most_rounds(top_p, vocabulary)
    rate = torch.tensor(-math.log(max(top_p, 1 / vocabulary)), dtype=torch.float64)
    still_open = [float(torch.special.gammainc(torch.tensor(r).double(), rate)) for r in (rounds, rounds - 1)]
    assert still_open[0] <= 2**-24 < (still_open[1] if rounds > 1 else 1)


@pytest.mark.parametrize(("top_p", "rounds"), [(0.1, 3), (0.1, 6), (0.5, 2), (0.9, 1)])
def test_no_more_is_left_open_than_the_bound_says_and_that_takes_the_likeliest_token(top_p, rounds, monkeypatch):
    log_p = torch.log_softmax(torch.linspace(0, 0.01, 1000), dim=-1)
    bound = float(torch.special.gammainc(torch.tensor(float(rounds)), torch.tensor(-math.log(top_p))))
    monkeypatch.setattr(nucleus, "most_rounds", lambda top_p, vocabulary: rounds)
    tokens = drawn(Picker(top_p=top_p), log_p, 5000)
    share = float((tokens == 999).double().mean())
    assert abs(share - bound) < SLACK * math.sqrt(bound / 5000) + 0.015  # the likeliest is drawn by chance too
    assert set(tokens.tolist()) <= set(Picker(top_p=top_p).probabilities(log_p).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("picker", [Picker(), Picker(top_p=0.2)])
def test_a_prediction_does_not_change_what_is_drawn_from_the_noise_after_it(picker):
    after = []
    for log_p in (zipf(300), torch.zeros(300).log_softmax(-1)):
        noise = CounterNoise([5])
        picker.draw(log_p.expand(1, 9, -1), noise)
        after.append(noise.uniform(4))
    assert torch.equal(*after)


@pytest.mark.parametrize("picker", [Picker(), Picker(top_p=0.7), Picker(0.8, 0.9), Picker(temperature=0.0)])
def test_the_tokens_that_are_wanted_are_those_that_a_draw_of_all_gives(picker):
    log_p = torch.log_softmax(3 * torch.randn(4, 6, 300, generator=torch.Generator().manual_seed(0)), dim=-1)
    wanted = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    wanted[2] = False
    some, every = (picker.draw(log_p, CounterNoise(range(4)), here) for here in (wanted, None))
    assert torch.equal(some[wanted], every[wanted])
    picker.draw(log_p, CounterNoise(range(4)), torch.zeros_like(wanted))


@pytest.mark.parametrize("picker", [Picker(), Picker(top_p=0.7), Picker(temperature=0.0)])
def test_positions_without_a_prediction_change_no_other(picker):
    log_p = torch.log_softmax(3 * torch.randn(2, 6, 300, generator=torch.Generator().manual_seed(2)), dim=-1)
    silent = torch.tensor([0, 1, 1, 0, 1, 0]).bool().expand(2, 6)
    drawn = picker.draw(log_p.masked_fill(silent[..., None], math.nan), CounterNoise(range(2)))
    assert torch.equal(drawn[~silent], picker.draw(log_p, CounterNoise(range(2)))[~silent])
    assert ((drawn >= 0) & (drawn < 300)).all()


def test_drawing_leaves_the_prediction_as_it_was():
    log_p = zipf(256).expand(1, 4, -1).contiguous()
    before = log_p.clone()
    for picker in (Picker(), Picker(0.5), Picker(1.0, 0.5), Picker(0.5, 0.5)):
        picker.draw(log_p, CounterNoise([0]))
        picker.probabilities(log_p)
        assert torch.equal(log_p, before)


def test_entropy_is_that_of_the_definition():
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(p.log()), torch.tensor([math.log(2), math.log(4), 0.0]))
    for vocabulary in (20, 128, 1000):
        log_p = torch.log_softmax(torch.randn(3, 4, vocabulary), dim=-1)
        torch.testing.assert_close(entropy(log_p), torch.distributions.Categorical(logits=log_p).entropy())


def test_a_prediction_that_is_not_a_number_has_no_entropy():
    assert entropy(torch.tensor([0.0, math.nan])).isnan()
