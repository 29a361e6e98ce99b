from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssdcli.engine.blocks import training_mask
from ssdcli.models.backbones import attention
from ssdcli.models.backbones.attention import chunks_of, visible_attention
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from tests.packed import plain

HEADS, LENGTH, WIDTH = 3, 40, 8
SCALE = {"scaling": WIDTH**-0.5}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_QUERIES", 12)  # the last of a row has fewer


def any_mask(rows: int = 2, share: float = 0.2, seed: int = 0) -> Tensor:
    """Who sees whom at random, with gaps in it; everyone sees itself."""
    draws = torch.rand(rows, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(seed))
    return (draws < share) | torch.eye(LENGTH, dtype=torch.bool)


def states(rows: int = 2, heads: int = HEADS, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values (B, H, L, d), laid out as the layers of a body give them."""
    torch.manual_seed(1)
    shapes = [(rows, LENGTH, n, WIDTH) for n in (HEADS, heads, heads)]
    return [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_(True) for shape in shapes]


def attended(inputs: list[Tensor], mask: Tensor, chunked: bool) -> list[Tensor]:
    """What attention gives, and the gradients of something made of it."""
    module = nn.Module()
    module.num_key_value_groups = inputs[0].shape[1] // inputs[1].shape[1]
    chunks = chunks_of(mask, inputs[0].dtype) if chunked else None
    out, _ = visible_attention(module, *inputs, mask, chunks=chunks, **SCALE)
    return [out.detach(), *torch.autograd.grad((out.float() * torch.arange(WIDTH).sin()).sum(), inputs)]


def training() -> Tensor:
    """The mask of a training, of texts of half the columns."""
    blocks = torch.arange(LENGTH // 2).expand(2, -1) // 4
    return training_mask(plain(blocks, 4, 1))


MASKS = pytest.mark.parametrize(
    "mask", [any_mask(), any_mask(share=0.02), any_mask(share=1), training()], ids=["some", "few", "all", "training"]
)


@MASKS
def test_chunks_give_the_attention_and_the_gradients_of_the_whole_mask(mask):
    for mine, expected in zip(attended(states(), mask, True), attended(states(), mask, False), strict=True):
        assert mine.shape == expected.shape
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_heads_may_share_keys_and_values():
    mask, inputs = any_mask(), states(heads=1)
    for mine, expected in zip(attended(inputs, mask, True), attended(inputs, mask, False), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    inputs, mask = states(rows=1, dtype=torch.float64), any_mask(rows=1)
    chunks = chunks_of(mask, torch.float64)
    attend = lambda *x: visible_attention(nn.Module(), *x, mask, chunks=chunks, **SCALE)[0]  # noqa: E731
    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


def test_bfloat16_gives_nearly_the_same():
    low = attended([x.detach().bfloat16().requires_grad_(True) for x in states()], any_mask(), True)
    for mine, expected in zip(low, attended(states(), any_mask(), False), strict=True):
        assert mine.dtype == torch.bfloat16
        assert float((mine.float() - expected).norm() / expected.norm()) < 0.02


@MASKS
def test_a_chunk_has_the_columns_that_one_of_its_queries_sees_and_no_others(mask):
    for chunk in chunks_of(mask, torch.float32):
        seen = torch.cat([torch.arange(LENGTH)[run] for run in chunk.runs])
        sees = mask[chunk.row, 0, chunk.queries]
        assert seen.tolist() == sees.any(0).nonzero().squeeze(1).tolist()
        assert torch.equal(chunk.bias == 0, sees[:, seen])


def test_what_nobody_sees_reaches_nothing_and_learns_nothing():
    mask = any_mask()
    mask[:, :, :, 7] = False
    changed = states()
    changed[1].data[:, :, 7] = float("nan")
    changed[2].data[:, :, 7] = float("nan")
    for mine, expected in zip(attended(changed, mask, True), attended(states(), mask, True), strict=True):
        assert torch.equal(mine, expected)
    assert (attended(states(), mask, True)[2][:, :, 7] == 0).all()


def test_a_row_is_bit_for_bit_what_it_is_alone():
    both = attended(states(), any_mask(), True)
    for row in range(2):
        alone = attended(
            [x.detach()[row : row + 1].requires_grad_(True) for x in states()], any_mask()[row, None], True
        )
        assert all(torch.equal(a[0], b[row]) for a, b in zip(alone, both, strict=True))


def encoded(model: BlockDiffusionLM, cached: bool) -> Tensor:
    torch.manual_seed(2)
    embedded, positions = torch.randn(2, LENGTH, 32), torch.arange(LENGTH).expand(2, -1)
    return model.encode(embedded, positions, any_mask(), model.new_cache() if cached else None)


def test_a_body_reads_in_chunks_without_a_cache_and_by_torchs_own_attention_with_one(monkeypatch):
    model = BlockDiffusionLM(BackboneConfig(30, hidden=32, layers=2, rank=32))
    calls = []
    plain_attention = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or plain_attention(*a, **k)
    )
    chunked = encoded(model, cached=False)
    assert not calls
    torch.testing.assert_close(chunked, encoded(model, cached=True), rtol=1e-4, atol=1e-5)
    assert len(calls) == 2


def test_the_mask_is_cut_once_for_all_layers(monkeypatch):
    model, cuts = BlockDiffusionLM(BackboneConfig(30, hidden=32, layers=3, rank=32)), []
    monkeypatch.setattr("ssdcli.models.backbones.block_diffusion.chunks_of", lambda *a: cuts.append(1) or chunks_of(*a))
    encoded(model, cached=False)
    assert len(cuts) == 1
