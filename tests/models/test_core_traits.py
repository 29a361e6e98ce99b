from __future__ import annotations

import pytest
import torch

from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.core_traits import inherit_embeddings, truncated


def matrix(rows: int = 60, columns: int = 12) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns) @ torch.diag(torch.linspace(2, 0.1, columns)) @ torch.randn(columns, columns)


def backbone(rank: int, hidden: int, vocabulary: int = 60) -> BlockDiffusionLM:
    return BlockDiffusionLM(BackboneConfig(vocabulary, hidden, layers=1, rank=rank))


def gram_error(table: torch.Tensor, original: torch.Tensor) -> float:
    return float(torch.linalg.norm(table @ table.T - original @ original.T))


@pytest.mark.parametrize("rank", [1, 3, 7, 11])
def test_no_table_of_its_rank_keeps_the_inner_products_better(rank):
    """The best Gram matrix of rank r leaves the tail of the squared singular values (Eckart, Young, 1936)."""
    original = matrix()
    table = truncated(original, rank)
    assert table.shape == (60, rank)
    singular = torch.linalg.svdvals(original)
    best = float(torch.linalg.norm(singular[rank:] ** 2))
    assert gram_error(table, original) == pytest.approx(best, rel=1e-4)


def test_the_coordinates_are_those_of_the_singular_value_decomposition():
    original = matrix()
    u, s, _ = torch.linalg.svd(original, full_matrices=False)
    expected = u[:, :4] * s[:4]
    torch.testing.assert_close(truncated(original, 4).abs(), expected.abs(), rtol=1e-3, atol=1e-3)


def test_full_rank_changes_nothing():
    original = matrix()
    assert torch.equal(truncated(original, 12), original)


@pytest.mark.parametrize("core_rank", [32, 16])
def test_a_small_model_starts_with_its_cores_token_geometry(core_rank):
    core, small = backbone(core_rank, hidden=32), backbone(rank=8, hidden=64)
    fresh = small.table.detach().norm()
    everything = torch.arange(60)[None]
    embedded = core.embed(everything)[0].detach()
    inherit_embeddings(small, embedded)
    singular = torch.linalg.svdvals(embedded)
    best = float(torch.linalg.norm(singular[8:] ** 2))
    assert float(small.table.detach().norm()) == pytest.approx(float(fresh), rel=1e-5)
    scale = float((singular[:8] ** 2).sum().sqrt() / fresh)
    assert gram_error(small.table.detach() * scale, embedded) == pytest.approx(best, rel=1e-3)
    # The lift starts orthogonal, so the geometry is that of the embeddings as well.
    assert gram_error(small.embed(everything)[0].detach() * scale, embedded) == pytest.approx(best, rel=1e-3)
    assert small.table.requires_grad
