from __future__ import annotations

import itertools
import math

import pytest
import torch

from ssdcli.engine import noise as module
from ssdcli.engine.noise import CounterNoise, GeneratorNoise, fold

SOURCES = pytest.mark.parametrize("source", [CounterNoise, GeneratorNoise])
DRAWS = pytest.mark.parametrize("draw", ["uniform", "normal"])
DERIVED = [(0,), (1,), (1 << 32,), (0, 0), (0, 1), (1, 0)]
CRITICAL = 1.95  # of sqrt(n) times the Kolmogorov-Smirnov distance, at p = 0.001


def distance(sample: torch.Tensor, cdf) -> float:
    """The Kolmogorov-Smirnov distance times sqrt(n)."""
    x = cdf(sample.flatten().double().sort().values)
    n = x.numel()
    above = torch.arange(1, n + 1) / n - x
    below = x - torch.arange(n) / n
    return float(torch.maximum(above.max(), below.max())) * math.sqrt(n)


def keys(count: int) -> list[int]:
    return [fold(7, i) for i in range(count)]


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's, in standard errors."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) * math.sqrt(a.numel())


@SOURCES
@DRAWS
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (16, 33)])
def test_a_row_depends_on_its_key_alone(source, draw, shape):
    rows = keys(5)
    together = getattr(source(rows), draw)(*shape)
    assert together.shape == (5, *shape)
    assert together.dtype == torch.float32
    backwards = getattr(source(rows[::-1]), draw)(*shape).flip(0)
    assert torch.equal(together, backwards)
    for i, key in enumerate(rows):
        assert torch.equal(getattr(source([key]), draw)(*shape)[0], together[i])
        neighbours = getattr(source([key, *keys(40)[20:]]), draw)(*shape)
        assert torch.equal(neighbours[0], together[i])
    assert len(together.flatten(1).unique(dim=0)) == 5


@SOURCES
@DRAWS
def test_successive_draws_go_on_and_a_new_source_begins_again(source, draw):
    noise = source(keys(2))
    first, second = getattr(noise, draw)(50), getattr(noise, draw)(50)
    assert not torch.isin(first, second).any()
    again = source(keys(2))
    assert torch.equal(getattr(again, draw)(50), first)
    assert torch.equal(getattr(again, draw)(50), second)


@SOURCES
def test_uniform_draws_are_uniform_in_the_open_interval(source):
    sample = source(keys(20)).uniform(10_001)
    assert sample.min() > 0
    assert sample.max() < 1
    n = sample.numel()
    assert abs(float(sample.double().mean()) - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    assert abs(float(sample.double().var()) - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    assert distance(sample, lambda x: x) < CRITICAL


def test_the_most_extreme_words_give_draws_within_bounds(monkeypatch):
    words = torch.tensor([[0, -(1 << 31), (1 << 31) - 1, -1]], dtype=torch.int32)
    monkeypatch.setattr(CounterNoise, "_words", lambda self, count: words.repeat(1, count // 4))
    assert CounterNoise([0]).uniform(4).tolist() == [[0.5 + 2**-24, 2**-24, 1 - 2**-24, 0.5 - 2**-24]]
    normal = CounterNoise([0]).normal(8)
    assert normal.isfinite().all()
    assert 6.6 < normal.abs().max() < 6.7


def test_a_uniform_draw_is_the_middle_of_one_of_a_power_of_two_cells():
    """So that neither zero nor one can be drawn, however long one waits."""
    sample = CounterNoise(keys(20)).uniform(10_000).double()
    assert (sample * 2**24 % 2 == 1).all()


@SOURCES
def test_normal_draws_are_standard_normal(source):
    sample = source(keys(20)).normal(10_001)
    assert sample.isfinite().all()
    n = sample.numel()
    assert abs(float(sample.double().mean())) < 4 / math.sqrt(n)
    assert abs(float(sample.double().var()) - 1) < 4 * math.sqrt(2 / n)
    assert distance(sample, torch.special.ndtr) < CRITICAL


def test_normal_draws_have_the_moments_and_the_tails_of_a_normal_up_to_five_deviations():
    sample = CounterNoise(keys(4)).normal(1_000_000).double()
    n = sample.numel()
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((sample**power).mean()) - mean) < 4 * math.sqrt(variance / n)
    for size, sign in itertools.product((2, 3, 4, 4.5, 5), (-1, 1)):
        expected = n * math.erfc(size / math.sqrt(2)) / 2
        assert abs(int((sign * sample > size).sum()) - expected) < 4 * math.sqrt(expected) + 1


@SOURCES
def test_the_two_normals_of_a_pair_are_independent(source):
    sample = source(keys(20)).normal(10_000).double()
    first, second = sample[:, :5000], sample[:, 5000:]
    assert abs(correlation(first, second)) < 4
    assert abs(correlation(first**2, second**2)) < 4


@SOURCES
@DRAWS
@pytest.mark.parametrize("other", [(0, 1), (1, 0), (0, 1 << 32), (7, 31)])
def test_other_blocks_and_steps_draw_independently(source, draw, other):
    rows = [3, 4, 1 << 63, -5]
    here = getattr(source([fold(seed, 0, 0) for seed in rows]), draw)(20_000)
    there = getattr(source([fold(seed, *other) for seed in rows]), draw)(20_000)
    assert abs(correlation(here, there)) < 4
    assert abs(correlation(here[:, 1:], there[:, :-1])) < 4


@SOURCES
@DRAWS
def test_neighbouring_seeds_draw_independently(source, draw):
    sample = getattr(source([fold(seed, 0, 0) for seed in range(4)]), draw)(20_000)
    for i in range(4):
        for j in range(i):
            assert abs(correlation(sample[i], sample[j])) < 4


@DRAWS
def test_plain_neighbouring_keys_draw_independently(draw):
    sample = getattr(CounterNoise(range(200)), draw)(100)
    assert abs(correlation(sample[1:], sample[:-1])) < 4
    assert abs(correlation(sample[:, 1:], sample[:, :-1])) < 4


def test_derived_noise_is_independent_of_what_it_is_derived_from_and_of_its_siblings():
    parent = CounterNoise([11])
    streams = torch.cat([n.normal(20_000) for n in (parent, *(parent.derive(*w) for w in DERIVED))])
    for a, b in itertools.combinations(streams, 2):
        assert abs(correlation(a, b)) < 4.5
        assert abs(correlation(a**2, b**2)) < 4.5
        assert abs(correlation(a[1:], b[:-1])) < 4.5


def test_derived_noise_tells_64_bits_of_key_and_word_apart():
    rows = [0, 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1]
    words = [0, 1, 1 << 31, 1 << 32, (1 << 32) + 1]
    drawn = torch.cat([CounterNoise(rows).derive(word).uniform(2) for word in words])
    assert len(drawn.unique(dim=0)) == len(rows) * len(words)


def test_draws_further_apart_are_independent():
    sample = CounterNoise(keys(20)).normal(20_000)
    for lag in (2, 3, 16, 128, 1024, 8192):
        assert abs(correlation(sample[:, lag:], sample[:, :-lag])) < 4
        assert abs(correlation(sample[:, lag:] ** 2, sample[:, :-lag] ** 2)) < 4


def splitmix(x: int) -> int:
    """The finaliser of splitmix64 in integers of any size."""
    mask = (1 << 64) - 1
    x = ((x & mask) ^ (x & mask) >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def test_the_words_are_those_of_splitmix64_so_that_every_device_draws_the_same():
    seeds = torch.tensor([module._signed(1234567 + i * 0x9E3779B97F4A7C15) for i in (1, 2, 3)])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [x % (1 << 64) for x in module._mix_(seeds).tolist()] == published
    key = fold(9, 9)
    hashed = [splitmix(splitmix(key) + i * 0x9E3779B97F4A7C15) for i in range(1, 51)]
    words = [word - (word >> 31 << 32) for x in hashed for word in (x & 0xFFFFFFFF, x >> 32)]
    assert CounterNoise([key]).uniform(100)[0].tolist() == [((w >> 9) + 2**22 + 0.5) * 2**-23 for w in words]
    u = [((w & 0x7FFFFFFF) + 0.5) * 2**-31 for w in words[:50]]
    z = [math.sqrt(-2 * math.log(a)) * math.cos(math.pi * b * 2**-31) for a, b in zip(u, words[50:], strict=True)]
    torch.testing.assert_close(CounterNoise([key]).normal(100)[0, :50], torch.tensor(z), rtol=1e-5, atol=1e-6)


def test_folded_keys_are_distinct_and_depend_on_the_order_of_words():
    found = {fold(seed, block, step) for seed in range(30) for block in range(30) for step in range(30)}
    assert len(found) == 30**3
    assert all(0 <= key < 1 << 64 for key in found)
    assert fold(1, 2, 3) == fold(1, 2, 3) != fold(1, 3, 2)
    assert fold(fold(1, 2), 3) == fold(1, 2, 3)


def test_exponential_draws_belong_to_a_key_and_an_id():
    ids = torch.arange(20_000)
    noise = CounterNoise([1, 2])
    draws = noise.exponential(ids)
    assert abs(float(draws.mean()) - 1) < 0.02
    assert abs(float((draws > 2).double().mean()) - math.exp(-2)) < 0.01
    assert float(draws.min()) > 0
    some, rows = torch.tensor([7, 19_999, 0]), torch.tensor([1, 0, 1])
    assert torch.equal(noise.exponential(some, rows), draws[rows, some])
    assert torch.equal(CounterNoise([2]).exponential(ids)[0], draws[1])
    assert abs(float(torch.corrcoef(draws)[0, 1])) < 0.03


def test_noise_at_words_is_that_derived_by_each():
    noise, rows, words = CounterNoise([3, -4]), torch.tensor([0, 1, 1]), torch.tensor([5, 0, 1 << 40])
    together = noise.at(rows, words).uniform(4)
    for place, (row, word) in enumerate(zip(rows.tolist(), words.tolist(), strict=True)):
        assert torch.equal(noise.derive(word).uniform(4)[row], together[place])
