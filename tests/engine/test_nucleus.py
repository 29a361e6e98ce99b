from __future__ import annotations

import math

import pytest
import torch

from ssdcli.engine.nucleus import Picker, draw, entropy, keep_nucleus

CHI_SQUARE_SLACK = 4.0  # standard deviations of the statistic above its mean


def nucleus_by_sorting(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keep a row's tokens from the likeliest on, all of one probability at once, until they hold top_p."""
    values, counts = p.unique(sorted=True, return_counts=True)
    masses = (values.double() * counts).flip(0)
    above = (masses.cumsum(0) - masses).flip(0)
    return torch.where(torch.isin(p, values[above < top_p]), p, 0)


def distributions(vocabulary: int, sharpness: float, rows: int = 8) -> torch.Tensor:
    torch.manual_seed(vocabulary)
    return torch.softmax(torch.randn(rows, vocabulary) * sharpness, dim=-1)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 17, 256, 5000])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_the_sorted_definition(vocabulary, sharpness, top_p):
    p = distributions(vocabulary, sharpness)
    kept = keep_nucleus(p, top_p)
    assert torch.equal(kept, torch.stack([nucleus_by_sorting(row, top_p) for row in p]))
    assert torch.equal(p, distributions(vocabulary, sharpness))


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


def test_the_nucleus_of_each_position_is_its_own_in_any_shape_and_layout():
    p = distributions(40, 2.0, rows=12)
    kept = keep_nucleus(p, 0.7)
    assert torch.equal(keep_nucleus(p.view(3, 4, 40), 0.7), kept.view(3, 4, 40))
    assert torch.equal(keep_nucleus(p.T.contiguous().T, 0.7), kept)


def test_subnormal_and_zero_probabilities_are_ordered_too():
    p = torch.tensor([1.0, 1e-30, 1e-40, 0.0])
    assert torch.equal(keep_nucleus(p, 0.999), torch.tensor([1.0, 0, 0, 0]))
    assert torch.equal(keep_nucleus(p, 1.5), p)


@pytest.mark.parametrize("picker", [Picker(temperature=0.0), Picker(top_p=1e-9), Picker(temperature=1e-7)])
@pytest.mark.parametrize("u", [1e-7, 0.3, 0.5, 1 - 1e-7])
def test_no_temperature_and_the_smallest_nucleus_are_greedy(picker, u):
    torch.manual_seed(1)
    log_p = torch.log_softmax(torch.randn(5, 6, 300), dim=-1)
    picked = picker.draw(log_p, torch.full((5, 6), u))
    assert torch.equal(picked, log_p.argmax(-1))
    assert picked.dtype == torch.int64


def test_a_nucleus_of_nothing_is_greedy():
    log_p = torch.tensor([[0.2, 0.7, 0.1]]).log()
    assert Picker(top_p=0.0).draw(log_p, torch.tensor([0.5])).tolist() == [1]


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


@pytest.mark.parametrize("picker", [Picker(), Picker(temperature=0.7), Picker(1.3, top_p=0.8), Picker(top_p=0.5)])
def test_drawn_frequencies_are_the_probabilities(picker):
    log_p = torch.log_softmax(torch.tensor([2.0, -1.0, 0.0, 1.5, -math.inf, 0.5, 0.5]), dim=-1)
    expected = picker.probabilities(log_p).double()
    expected /= expected.sum()
    torch.manual_seed(2)
    count = 100_000
    picked = picker.draw(log_p.expand(count, -1), torch.rand(count))
    observed = torch.bincount(picked, minlength=7).double()
    possible = expected > 0
    assert observed[~possible].sum() == 0
    statistic = ((observed - count * expected)[possible] ** 2 / (count * expected[possible])).sum()
    freedom = int(possible.sum()) - 1
    assert statistic < freedom + CHI_SQUARE_SLACK * math.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("vocabulary", [3, 64, 5000])
def test_a_token_of_no_weight_is_never_drawn(vocabulary):
    torch.manual_seed(3)
    weights = torch.rand(200, vocabulary) * (torch.rand(200, vocabulary) < 0.3)
    weights[:, 0] = weights[:, -1] = 0
    weights[:, 1] += 1e-3
    for u in (0.0, 1e-38, 2**-24, 0.5, 1 - 2**-24, 1.0):
        index = draw(weights, torch.full((200,), u))
        assert (weights.gather(-1, index[:, None]) > 0).all()


def test_the_ends_of_the_interval_draw_the_first_and_the_last_token():
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]])
    assert draw(weights, torch.tensor([2**-24])).item() == 1
    assert draw(weights, torch.tensor([1 - 2**-24])).item() == 4


def test_drawing_needs_no_normalised_weights():
    torch.manual_seed(4)
    weights, u = torch.rand(50, 30), torch.rand(50)
    assert torch.equal(draw(weights, u), draw(weights * 8, u))


def test_entropy_is_that_of_the_definition():
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(p.log()), torch.tensor([math.log(2), math.log(4), 0.0]))
    log_p = torch.log_softmax(torch.randn(3, 4, 20), dim=-1)
    expected = torch.distributions.Categorical(logits=log_p).entropy()
    torch.testing.assert_close(entropy(log_p), expected)
