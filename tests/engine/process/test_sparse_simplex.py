from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise, GeneratorNoise
from ssdcli.engine.process import make_process
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from tests.engine.process.toys import sampler

V, H = 1000, 8
TOKEN = 123
DENSE, SPARSE = Simplex(V), SparseSimplex(V)
ONE_HOT, MULTI_HOT = sampler(SPARSE), sampler(SPARSE, Choice("multi-hot"))
LEVELS = pytest.mark.parametrize("t", [1.0, 0.7, 0.4, 0.3, 0.2, 0.1, 0.02])


class Table:
    """An embedding space with one vector a token."""

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors

    def embed_mixture(self, p: Tensor) -> Tensor:
        return p @ self.vectors

    def embed_sparse(self, ids: Tensor, weights: Tensor) -> Tensor:
        return self.embed_mixture(dense_weights(ids, weights, len(self.vectors)))


def dense_weights(ids: Tensor, weights: Tensor, vocabulary: int) -> Tensor:
    """The weight of every token of a sparse canvas: (B, L, V)."""
    even = ((1 - weights.sum(-1, keepdim=True)) / vocabulary).expand(*ids.shape[:2], vocabulary)
    return even.scatter_add(-1, ids, weights)


def skewed_table() -> Tensor:
    """Vectors of unequal length whose means drift with the id, as those of trained tables do: (V, H)."""
    draws = torch.randn(V, H, generator=torch.Generator().manual_seed(0))
    return draws * (1 + draws[:, :1].abs()) + torch.linspace(-1, 1, V)[:, None]


def without_token(table: Tensor) -> Tensor:
    """The table with the mean at TOKEN, so that only the noise of the others shows."""
    return table.index_copy(0, torch.tensor([TOKEN]), table.mean(0, keepdim=True))


@cache
def embeddings(process: Simplex, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """10,000 draws of what a noised TOKEN is to three tables: one, the same without TOKEN, and another without it."""
    table = skewed_table()
    other = table.roll(1, dims=1) + torch.randn(V, H, generator=torch.Generator().manual_seed(1))
    tokens = torch.full((40, 250), TOKEN)
    canvas = process.corrupt(tokens, torch.full(tokens.shape, t), GeneratorNoise(range(len(tokens))))
    tables = torch.cat([table, without_token(table), without_token(other)], dim=1)
    first, second, third = process.embed(canvas, Table(tables)).flatten(0, 1).split(H, dim=-1)
    return first, second, third


def energy_p(a: Tensor, b: Tensor, permutations: int = 200) -> float:
    """How often a random split of two equally large samples is as far apart in energy distance (Szekely, 2003)."""
    n = len(a)
    distances = torch.cdist(torch.cat([a, b]), torch.cat([a, b]))
    generator = torch.Generator().manual_seed(0)
    order = torch.stack(
        [torch.arange(2 * n)] + [torch.randperm(2 * n, generator=generator) for _ in range(permutations)]
    )
    signs = torch.where(order < n, 1.0, -1.0).T
    energy = -(signs * (distances @ signs)).sum(0)
    return float((energy[1:] >= energy[0]).float().mean())


def products(x: Tensor, y: Tensor) -> Tensor:
    """All products of two vectors' components: (n, H) and (n, H) to (n, H * H)."""
    return (x[:, :, None] * y[:, None, :]).flatten(1)


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether the means of two samples (n, d) differ by no more than 4.5 standard errors anywhere."""
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    return float((a.mean(0) - b.mean(0)).div(error).abs().max()) < 4.5


@LEVELS
@pytest.mark.parametrize("table", [0, 1], ids=["all", "others"])
def test_the_embedding_of_a_noised_token_has_the_law_that_dense_noise_gives_it(t, table):
    a, b = (embeddings(process, t)[table][:1500] for process in (DENSE, SPARSE))
    assert energy_p(a, b) > 0.002


@LEVELS
def test_the_noise_of_all_other_tokens_has_the_right_mean_and_covariance(t):
    a, b = (embeddings(process, t)[1].double() for process in (DENSE, SPARSE))
    scaled = [(x - a.mean(0)) / a.std(0) for x in (a, b)]
    assert agree(*scaled)
    assert agree(*[products(x, x) for x in scaled])


@LEVELS
def test_models_with_different_tables_see_the_same_canvas(t):
    a, b = (torch.cat(embeddings(process, t)[1:], dim=1).double() for process in (DENSE, SPARSE))
    scaled = [(x - a.mean(0)) / a.std(0) for x in (a, b)]
    crossed = [products(x[:, :H], x[:, H:]) for x in scaled]
    assert agree(*crossed)
    assert float(crossed[1].mean(0).abs().max()) > 0.3


def kolmogorov(a: Tensor, b: Tensor) -> float:
    """The largest difference of two samples' distributions over its scale; above 2.0 once in 1500 equal ones."""
    places = torch.cat([a, b]).sort().values
    ranks = [torch.searchsorted(x.sort().values, places, right=True) / len(x) for x in (a, b)]
    return float((ranks[0] - ranks[1]).abs().max()) * math.sqrt(len(a) * len(b) / (len(a) + len(b)))


@pytest.mark.parametrize("t", [1.0, 0.5, 0.3])
def test_the_largest_weight_is_distributed_as_that_of_dense_noise(t):
    tokens = torch.full((40, 250), TOKEN)
    level = torch.full(tokens.shape, t)
    dense = DENSE.corrupt(tokens, level, GeneratorNoise(range(40))).softmax(-1)
    ids, weights = SPARSE.corrupt(tokens, level, GeneratorNoise(range(40))).unbind(2)
    sparse = dense_weights(ids.long(), weights, V)
    assert kolmogorov(dense.amax(-1).flatten(), sparse.amax(-1).flatten()) < 2


class Calm(GeneratorNoise):
    """Noise whose normals, which only the token's own weight is made of, are all zero."""

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros_like(self.uniform(*shape))


@pytest.mark.parametrize("t", [0.4, 0.2, 0.1, 0.03])
def test_the_sum_of_all_other_weights_is_distributed_as_that_of_dense_noise(t):
    tokens = torch.full((40, 250), TOKEN)
    ids, weights = SPARSE.corrupt(tokens, torch.full(tokens.shape, t), Calm(range(40))).unbind(2)
    own = dense_weights(ids.long(), weights, V)[..., TOKEN].flatten()
    abar = float(DENSE.abar(torch.tensor(t)))
    sums = (1 / own - 1) * math.exp(2 * DENSE.K * math.sqrt(abar))
    eps = torch.randn(10_000, V - 1, generator=torch.Generator().manual_seed(0))
    expected = (DENSE.K * math.sqrt(1 - abar) * eps).exp().sum(-1)
    assert kolmogorov(sums, expected) < 2


@given(
    vocabulary=st.sampled_from([200, 1000, 50_265, 262_144]),
    K=st.sampled_from([1.0, 5.0, 20.0]),
    t=st.floats(0, 1),
    key=st.integers(0, 2**63),
)
def test_a_canvas_names_distinct_tokens_and_its_weights_leave_a_share_for_the_others(vocabulary, K, t, key):
    process = SparseSimplex(vocabulary, K=K)
    tokens = torch.arange(0, vocabulary, 7)[None, :40]
    canvas = process.corrupt(tokens, torch.full(tokens.shape, t), CounterNoise([key]))
    assert canvas.shape == (1, tokens.shape[1], 2, 1 + process.top + process.scattered)
    assert canvas.dtype == torch.float32
    ids, weights = canvas.unbind(2)
    assert torch.equal(ids[..., 0].long(), tokens)
    assert torch.equal(ids, ids.round())
    assert ids.min() >= 0
    assert ids.max() < vocabulary
    assert (ids.sort(-1).values.diff(dim=-1) > 0).all()
    assert weights.isfinite().all()
    assert (weights.sum(-1) <= 1 + 1e-6).all()


@pytest.mark.parametrize("vocabulary", [200, 1000, 50_265, 262_144])
def test_a_clean_canvas_is_that_of_dense_noise_and_holds_its_tokens(vocabulary):
    sparse, dense = SparseSimplex(vocabulary), Simplex(vocabulary)
    tokens = torch.arange(0, vocabulary, vocabulary // 10)[None]
    clean = torch.zeros(tokens.shape)
    canvas = sparse.corrupt(tokens, clean, CounterNoise([1]))
    assert torch.equal(sparse.tokens(canvas), tokens)
    p = dense_weights(canvas[:, :, 0].long(), canvas[:, :, 1], vocabulary)
    torch.testing.assert_close(p, dense.corrupt(tokens, clean, CounterNoise([1])).softmax(-1), rtol=1e-3, atol=1e-7)


def test_the_largest_numbers_of_a_vocabulary_are_exact():
    tokens = torch.tensor([[262_143, 262_142]])
    canvas = SparseSimplex(262_144).corrupt(tokens, torch.zeros(1, 2), CounterNoise([0]))
    assert torch.equal(SparseSimplex(262_144).tokens(canvas), tokens)


def test_the_prior_is_what_the_last_level_leaves():
    table = skewed_table()
    canvas = SPARSE.prior(50, CounterNoise(range(30)))
    assert canvas.shape == (30, 50, 2, 161)
    assert energy_p(SPARSE.embed(canvas, Table(table)).flatten(0, 1), embeddings(DENSE, 1.0)[0][:1500]) > 0.01


def test_each_position_has_its_own_level():
    tokens = torch.full((1, 40), TOKEN)
    canvas = SPARSE.corrupt(tokens, torch.tensor([[0.0, 1.0] * 20]), CounterNoise([3]))
    assert (canvas[:, ::2, 1, 0] > 0.9).all()
    assert (canvas[:, 1::2, 1, 0] < 0.5).float().mean() > 0.8


@pytest.mark.parametrize("one", [ONE_HOT, MULTI_HOT], ids=["nucleus", "multi-hot"])
def test_a_row_is_noised_and_denoised_as_it_is_alone(one):
    torch.manual_seed(0)
    log_p = torch.log_softmax(torch.randn(4, 6, V), dim=-1)
    lower = torch.tensor([0.4, 0.0, 0.4, 0.2], dtype=torch.float64)
    keys = [5, 6, 7, 8]
    tokens, t = torch.arange(24).view(4, 6), torch.rand(4, 6)
    noises = CounterNoise(keys), CounterNoise(keys)
    canvas = SPARSE.corrupt(tokens, t, noises[0])
    stepped = one.step(canvas, Prediction(log_p), (0.8, lower), Picker(top_p=0.5), noises[1])
    for row, key in enumerate(keys):
        here = slice(row, row + 1)
        assert torch.equal(SPARSE.corrupt(tokens[here], t[here], CounterNoise([key])), canvas[here])
        single = one.step(
            canvas[here], Prediction(log_p[here]), (0.8, lower[here]), Picker(top_p=0.5), CounterNoise([key])
        )
        assert torch.equal(single, stepped[here])


@pytest.mark.parametrize("one", [ONE_HOT, MULTI_HOT], ids=["nucleus", "multi-hot"])
def test_the_last_step_leaves_the_drawn_tokens(one):
    p = torch.full((V,), 0.1 / (V - 2)).index_copy(0, torch.tensor([7, 900]), torch.tensor([0.6, 0.3]))
    log_p = p.log().expand(200, 25, V)
    lower = torch.zeros(200, dtype=torch.float64)
    canvas = SPARSE.prior(25, CounterNoise(range(200)))
    clean = one.step(canvas, Prediction(log_p), (0.1, lower), Picker(top_p=0.85), CounterNoise(range(200)))
    made = SPARSE.tokens(clean)
    assert set(made.unique().tolist()) == {7, 900}
    assert (clean[:, :, 1].topk(2).values.diff(dim=-1) < -0.9).all()  # one token and nothing else
    assert abs(float((made == 7).double().mean()) - 2 / 3) < 4.5 * math.sqrt(2 / 9 / 5000)
    greedy = one.step(canvas, Prediction(log_p), (0.1, lower), Picker(temperature=0.0), CounterNoise(range(200)))
    assert (SPARSE.tokens(greedy) == 7).all()


@pytest.mark.parametrize("hot", [1, 3, 16, 40])
def test_multi_hot_raises_the_likeliest_of_the_nucleus_up_to_sixteen(hot):
    p = torch.full((V,), 0.01 / V)
    p[torch.arange(hot) * 20 + 5] += 0.99 / hot * torch.linspace(1.01, 0.99, hot)
    canvas = SPARSE.prior(25, CounterNoise(range(40)))
    step = (canvas, Prediction(p.log().expand(40, 25, V)), (0.5, torch.full((40,), 0.1, dtype=torch.float64)))
    ids, weights = MULTI_HOT.step(*step, Picker(top_p=0.97), CounterNoise(range(40))).unbind(2)
    assert (ids.sort(-1).values.diff(dim=-1) > 0).all()
    raised = (ids % 20 == 5) & (ids < hot * 20) & (weights > 0.25 / hot)
    if hot <= 16:
        assert float((raised.sum(-1) / hot).mean()) > 0.9
        assert ids[..., :hot].long().unique().tolist() == [i * 20 + 5 for i in range(hot)]
    else:  # the token drawn is among them, be it one of the likeliest or not
        assert int(raised.sum(-1).max()) <= 16
        assert set(ids[..., 0].long().unique().tolist()) == {i * 20 + 5 for i in range(hot)}


def test_multi_hot_noise_has_the_law_that_dense_noise_gives_it():
    p = torch.full((V,), 0.1 / V)
    p[:4] += torch.tensor([0.4, 0.2, 0.2, 0.1])
    table, lower = skewed_table(), torch.full((60,), 0.3, dtype=torch.float64)
    samples = []
    for one in (sampler(DENSE, Choice("multi-hot")), MULTI_HOT):
        canvas = one.process.prior(25, CounterNoise(range(60)))
        noise = CounterNoise(range(100, 160))
        made = one.step(canvas, Prediction(p.log().expand(60, 25, V)), (0.5, lower), Picker(top_p=0.85), noise)
        samples.append(one.process.embed(made, Table(table)).flatten(0, 1))
    assert energy_p(*samples) > 0.01


def test_large_vocabularies_have_sparse_noise_of_the_same_constants():
    constants = {"K": 4.0, "s": 0.001}
    below, above = (make_process("simplex", vocabulary, constants) for vocabulary in (32_767, 32_768))
    assert below == Simplex(32_767, K=4.0, s=0.001)
    assert above == SparseSimplex(32_768, K=4.0, s=0.001)
    assert above.constants() == below.constants() == constants


def test_a_vocabulary_too_small_for_sparse_noise_is_refused():
    with pytest.raises(ValueError, match="175 tokens is too small"):
        SparseSimplex(175)
