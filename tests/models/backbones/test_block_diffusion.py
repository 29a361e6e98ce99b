from __future__ import annotations

import json

import pytest
import torch

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM

CONFIG = BackboneConfig(50, hidden=32, layers=2, rank=16, block_size=4, context=64, suppressed=(0, 49))


@pytest.fixture
def model() -> BlockDiffusionLM:
    torch.manual_seed(0)
    return BlockDiffusionLM(CONFIG)


def test_a_configuration_survives_json():
    written = json.loads(json.dumps(CONFIG.to_json()))
    assert BackboneConfig.from_json(written) == CONFIG


def test_an_unknown_key_of_a_configuration_is_refused():
    with pytest.raises(TypeError):
        BackboneConfig.from_json(CONFIG.to_json() | {"wings": 2})


@pytest.mark.parametrize(("hidden", "heads"), [(32, 1), (96, 3), (192, 6), (256, 4), (384, 6), (896, 14)])
def test_heads_have_32_dimensions_in_narrow_models_and_64_in_others(hidden, heads):
    config = BackboneConfig(50, hidden, layers=1, rank=8)
    assert config.heads == heads
    assert hidden // heads == (64 if hidden >= 256 else 32)


def test_ids_that_are_never_text_have_no_chance_and_the_others_do(model):
    logits = model.logits(torch.randn(2, 3, 32))
    assert logits.shape == (2, 3, 50)
    assert logits.dtype == torch.float32
    assert logits[..., [0, 49]].isneginf().all()
    assert logits[..., 1:49].isfinite().all()


def test_what_is_suppressed_is_no_weight(model):
    assert not any("suppressed" in name for name in model.state_dict())


def test_nothing_is_suppressed_unless_told():
    model = BlockDiffusionLM(BackboneConfig(50, 32, 1, 16))
    assert model.logits(torch.randn(1, 1, 32)).isfinite().all()


@pytest.mark.parametrize("rank", [16, 32])
def test_the_head_is_tied_to_the_embeddings(rank):
    torch.manual_seed(0)
    model = BlockDiffusionLM(BackboneConfig(50, 32, 1, rank))
    hidden = torch.randn(3, 32)
    everything = model.embed(torch.arange(50)[None])[0]
    torch.testing.assert_close(model.logits(hidden[None])[0], hidden @ everything.T)
    torch.testing.assert_close(model.to_rank(hidden) @ model.table.T, hidden @ everything.T)
    assert (model.lift is None) == (rank == 32)


def test_a_mixture_of_one_token_is_that_token_and_mixing_is_linear(model):
    tokens = torch.tensor([[3, 7, 11]])
    onehot = torch.nn.functional.one_hot(tokens, 50).float()
    torch.testing.assert_close(model.embed_mixture(onehot), model.embed(tokens))
    p = torch.softmax(torch.randn(1, 3, 50), -1)
    mixed = model.embed_mixture(0.3 * onehot + 0.7 * p)
    torch.testing.assert_close(mixed, 0.3 * model.embed(tokens) + 0.7 * model.embed_mixture(p))


def sparse_and_dense(model: BlockDiffusionLM) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding of some signed weights whose rest is spread evenly, and of the same weights of all tokens."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(50, generator=generator)[:7] for _ in range(6)]).view(2, 3, 7)
    weights = torch.randn(2, 3, 7, generator=generator) / 7
    even = ((1 - weights.sum(-1, keepdim=True)) / 50).expand(2, 3, 50)
    return model.embed_sparse(ids, weights), model.embed_mixture(even.scatter_add(-1, ids, weights))


def test_a_sparse_mixture_is_the_dense_one_of_the_same_weights(model):
    sparse, dense = sparse_and_dense(model)
    assert sparse.shape == (2, 3, 32)
    torch.testing.assert_close(sparse, dense)
    low_sparse, low_dense = sparse_and_dense(model.bfloat16())
    assert low_sparse.dtype == torch.bfloat16
    torch.testing.assert_close(low_sparse, low_dense, rtol=0.02, atol=0.005)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_sparse_mixture_teaches_the_table_as_the_dense_one_does(model, autocast):
    gradients = []
    for kind in (0, 1):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            embedded = sparse_and_dense(model)[kind]
            embedded.float().sin().sum().backward()
        gradients.append((model.table.grad, model.lift.weight.grad))
    for sparse, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=0.02 if autocast else 1e-5, atol=0.01 if autocast else 1e-6)
    assert (gradients[0][0].abs().amax(-1) > 0).all()  # every token has a share


def test_a_new_model_ignores_its_previous_prediction_but_knows_the_level(model):
    embedded, previous = torch.randn(1, 3, 32), torch.randn(1, 3, 32)
    assert torch.equal(model.condition(embedded, None, None), embedded)
    assert torch.equal(model.condition(embedded, None, previous), embedded)
    levels = [model.condition(embedded, torch.full((1, 3), t), None) for t in (0.0, 0.001, 0.5, 1.0)]
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(levels[i], levels[j], atol=1e-4)


def test_a_model_neither_timed_nor_hearing_ignores_both():
    model = BlockDiffusionLM(BackboneConfig(50, 32, 1, 16, timed=False, self_conditioned=False))
    embedded = torch.randn(1, 3, 32)
    assert torch.equal(model.condition(embedded, torch.ones(1, 3), torch.randn(1, 3, 32)), embedded)
    assert (model.time, model.self_conditioning) == (None, None)


def test_a_cache_that_is_read_stays_and_one_that_grows_is_another(model):
    def positions(start: int, stop: int) -> torch.Tensor:
        return torch.arange(start, stop)[None]

    def see_all(rows: int, columns: int) -> torch.Tensor:
        return torch.ones(1, 1, rows, columns, dtype=torch.bool)

    torch.manual_seed(1)
    text, canvas = torch.randn(1, 5, 32), torch.randn(1, 3, 32)
    with torch.no_grad():
        empty = model.new_cache()
        first = model.extend(text, positions(0, 5), see_all(5, 5), empty)
        read = model.encode(canvas, positions(5, 8), see_all(3, 8), first)
        second = model.extend(canvas, positions(5, 8), see_all(3, 8), first)
        assert torch.equal(model.encode(canvas, positions(5, 8), see_all(3, 8), first), read)
        # What was appended is seen: alone, the canvas is encoded otherwise.
        alone = model.encode(canvas, positions(5, 8), see_all(3, 3), None)
    assert not torch.allclose(alone, read, atol=1e-3)
    assert [cache.columns for cache in (empty, first, second)] == [0, 5, 8]
    assert torch.equal(second.layers[1].keys[:, :, :5], first.layers[1].keys)
