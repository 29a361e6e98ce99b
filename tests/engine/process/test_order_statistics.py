from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.sparse_simplex import distinct, largest_normals, lognormal_below, skipping


def kolmogorov(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two samples' distributions over its scale; above 2.0 once in 1500 equal ones."""
    places = torch.cat([a, b]).sort().values
    ranks = [torch.searchsorted(x.sort().values, places, right=True) / len(x) for x in (a, b)]
    return float((ranks[0] - ranks[1]).abs().max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))


@pytest.mark.parametrize("count", [4, 1000])
def test_the_largest_normals_are_distributed_as_those_of_a_whole_draw(count):
    drawn = largest_normals(CounterNoise(range(5000)).uniform(4), count)
    assert drawn.dtype == torch.float64
    assert (drawn.diff(dim=-1) <= 0).all()
    whole = torch.randn(5000, count, generator=torch.Generator().manual_seed(1)).double().topk(4).values
    for k in range(4):
        assert kolmogorov(drawn[:, k], whole[:, k]) < 2
    for gap in ((0, 1), (0, 3)):  # and together: their differences too
        assert kolmogorov(drawn[:, gap[0]] - drawn[:, gap[1]], whole[:, gap[0]] - whole[:, gap[1]]) < 2


def test_the_largest_of_very_many_normals_are_finite_and_spread():
    drawn = largest_normals(CounterNoise(range(2000)).uniform(8), 262_143)
    assert drawn.isfinite().all()
    assert len(drawn.unique()) > 0.99 * drawn.numel()


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("bound", [-1.0, 2.0, 4.5])
def test_the_mean_and_variance_below_a_bound_are_those_of_the_integral(sigma, bound):
    z = torch.linspace(-12, bound, 400_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2)
    density = density / torch.trapezoid(density, z)
    mean = torch.trapezoid(density * (sigma * z).exp(), z)
    variance = torch.trapezoid(density * ((sigma * z).exp() - mean) ** 2, z)
    log_mean, relative = lognormal_below(torch.tensor(sigma).double(), torch.tensor(bound).double())
    assert float(log_mean) == pytest.approx(float(mean.log()), rel=1e-6, abs=1e-6)
    assert float(relative) == pytest.approx(float(variance / mean**2), rel=1e-5)


def test_without_noise_all_weigh_one_and_with_much_nothing_overflows():
    bounds = torch.linspace(-1, 6, 50, dtype=torch.float64)
    for sigma in (0.0, 1e-9, 1e-8):  # where rounding would make some variances negative
        log_mean, variance = lognormal_below(torch.tensor(sigma).double(), bounds)
        torch.testing.assert_close(log_mean, torch.zeros_like(bounds), rtol=0, atol=1e-7)
        assert variance.min() >= 0
        assert variance.max() < 1e-14
    for part in lognormal_below(torch.tensor(50.0).double(), bounds):
        assert part.isfinite().all()


@given(k=st.integers(1, 30), more=st.integers(0, 400), key=st.integers(0, 2**63))
def test_distinct_numbers_are_distinct_and_below_the_count(k, more, key):
    numbers = distinct(CounterNoise([key]).uniform(50, k + 1), k + more)
    assert numbers.shape == (1, 50, k)
    assert numbers.min() >= 0
    assert numbers.max() < k + more
    assert (numbers.sort(-1).values.diff(dim=-1) > 0).all()


@given(count=st.integers(4, 2**24))
def test_a_uniform_draw_next_to_zero_or_one_stays_within_the_count(count):
    for edge in (2**-25, 1 - 2**-24):
        numbers = distinct(torch.full((5,), edge), count)
        assert numbers.min() >= 0
        assert numbers.max() < count
        assert len(numbers.unique()) == 4


def test_each_distinct_number_may_be_any_and_goes_with_any():
    count, rows = 23, 40_000
    numbers = distinct(CounterNoise(range(rows)).uniform(4), count)
    for slot in range(3):
        observed = torch.bincount(numbers[:, slot], minlength=count).double()
        chi_square = float(((observed - rows / count) ** 2 / (rows / count)).sum())
        assert chi_square < 22 + 4 * math.sqrt(2 * 22)
    # Neighbours in a draw are no neighbours in number: what goes slowly with the number is uncorrelated.
    many = distinct(CounterNoise(range(rows)).uniform(4), 50_000).double() / 50_000
    correlation = torch.corrcoef(many.T)
    assert float((correlation - torch.eye(3)).abs().max()) < 4.5 / math.sqrt(rows)


@given(taken=st.sets(st.integers(0, 40), min_size=1, max_size=12), size=st.just(41))
def test_skipping_counts_through_what_is_not_taken(taken, size):
    free = [number for number in range(size) if number not in taken]
    shuffled = sorted(taken, key=lambda number: number * 17 % 41)
    numbers = torch.arange(len(free)).flip(0)
    assert skipping(numbers, torch.tensor(shuffled)).tolist() == free[::-1]
