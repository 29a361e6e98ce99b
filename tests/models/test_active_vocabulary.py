from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssdcli.errors import SsdError
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone, save_backbone

V, ROWS, NEVER = 600, 9, (1, 599)
CONFIG = BackboneConfig(V, hidden=32, layers=1, rank=16, block_size=4, context=64, suppressed=NEVER, active=ROWS)
TEXT = torch.tensor([v for v in range(V) if v not in NEVER])


def state() -> dict[str, Tensor]:
    """Ids that are text share eight rows, with random shares, and a tenth is spread evenly; the ninth is for others."""
    generator = torch.Generator().manual_seed(1)
    row = torch.randint(ROWS - 1, (V,), generator=generator)
    row[list(NEVER)] = ROWS - 1
    weights = torch.rand(V, generator=generator).index_fill(0, torch.tensor(NEVER), 0)
    total = torch.zeros(ROWS).index_add(0, row, weights)
    texts = row[TEXT].bincount(minlength=ROWS)
    return {
        "row": row,
        "size": row.bincount(minlength=ROWS),
        "share": (weights / total[row]).nan_to_num(0).log(),
        "floor": (0.1 * texts / len(TEXT)).log(),
    }


@pytest.fixture
def model() -> BlockDiffusionLM:
    torch.manual_seed(0)
    model = BlockDiffusionLM(CONFIG)
    model.vocabulary.load_state_dict(state())
    return model.requires_grad_(False)


def probabilities(model: BlockDiffusionLM, hidden: Tensor) -> Tensor:
    return model.logits(hidden).exp()


def test_the_table_has_a_row_for_each_active_token_only(model):
    assert model.table.shape == (ROWS, 16)
    assert model.sizes.table == ROWS * 16


def test_all_tokens_get_scores_that_sum_to_one_but_those_that_are_never_text(model):
    logits = model.logits(torch.randn(2, 3, 32))
    assert (logits.shape, logits.dtype) == ((2, 3, V), torch.float32)
    assert logits[..., list(NEVER)].isneginf().all()
    assert logits[..., TEXT].isfinite().all()
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 3))


def test_the_tokens_of_a_row_have_what_the_head_gives_it_and_the_floor_in_constant_shares(model):
    hidden = torch.randn(2, 3, 32)
    p, row, share = probabilities(model, hidden), state()["row"], state()["share"].exp()
    by_row = torch.zeros(2, 3, ROWS).index_add(-1, row, p)
    head = model.row_scores(hidden).softmax(-1)
    assert (head[..., -1] == 0).all()
    torch.testing.assert_close(by_row, 0.9 * head + state()["floor"].exp())
    torch.testing.assert_close(p, by_row[..., row] * share)


def test_no_prediction_however_sure_puts_a_row_below_its_floor(model):
    model.table.copy_(1e4 * torch.randn(ROWS, 16))
    by_row = torch.zeros(1, 50, ROWS).index_add(-1, state()["row"], probabilities(model, torch.randn(1, 50, 32)))
    assert (by_row >= 0.999 * state()["floor"].exp()).all()
    assert (by_row[..., :-1] > 0).all()
    assert by_row.amax() > 0.9


def test_tokens_of_one_row_are_read_alike_and_others_are_not(model):
    row = state()["row"]
    embedded = model.embed(torch.arange(V)[None])[0]
    alike = (embedded[:, None] == embedded).all(-1)
    assert torch.equal(alike, row[:, None] == row)


def test_mixtures_dense_and_sparse_are_sums_of_embeddings(model):
    everything = model.embed(torch.arange(V)[None])[0]
    p = torch.softmax(torch.randn(2, 3, V), -1)
    torch.testing.assert_close(model.embed_mixture(p), p @ everything)
    ids = torch.stack([torch.randperm(V)[:7] for _ in range(6)]).view(2, 3, 7)
    weights = torch.randn(2, 3, 7) / 7
    even = ((1 - weights.sum(-1, keepdim=True)) / V).expand(2, 3, V)
    torch.testing.assert_close(
        model.embed_sparse(ids, weights), even.scatter_add(-1, ids, weights) @ everything, rtol=1e-4, atol=1e-5
    )


def test_a_prediction_is_embedded_as_its_rows_are(model):
    model.vocabulary.load_state_dict(state() | {"floor": torch.full((ROWS,), -math.inf)})
    scores = model.row_scores(torch.randn(2, 3, 32))
    p = model.vocabulary.spread(scores).exp()
    torch.testing.assert_close(model.embed_rows(scores.softmax(-1)), model.embed_mixture(p))


def test_a_row_of_a_batch_is_what_it_is_alone(model):
    p, scores = torch.softmax(torch.randn(3, 4, V), -1), torch.randn(3, 4, ROWS)
    vocabulary = model.vocabulary
    for row in range(3):
        alone = slice(row, row + 1)
        assert torch.equal(vocabulary.pooled(p)[alone], vocabulary.pooled(p[alone]))
        assert torch.equal(vocabulary.spread(scores)[alone], vocabulary.spread(scores[alone]))


def test_a_stored_model_comes_back_with_every_id_in_its_row(model, tmp_path):
    save_backbone(model, tmp_path)
    again = load_backbone(tmp_path)
    assert again.config == CONFIG
    assert torch.equal(again.vocabulary.rows(torch.arange(V)), state()["row"])
    assert again.vocabulary.sizes(again.table).tolist() == state()["size"].tolist()
    kept = model.bfloat16().float()
    hidden = torch.randn(1, 3, 32)
    assert torch.equal(again.logits(hidden), kept.logits(hidden))


def test_a_folder_without_the_division_is_refused(model, tmp_path):
    save_backbone(BlockDiffusionLM(BackboneConfig(V, 32, 1, 16, suppressed=NEVER)), tmp_path)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace("{", '{"active": 9,', 1))
    with pytest.raises(SsdError, match="cannot be read"):
        load_backbone(tmp_path)


def test_a_whole_vocabulary_is_stored_as_ever():
    config = BackboneConfig(V, 32, 1, 16)
    assert "active" not in config.to_json()
    assert not any(name.startswith("vocabulary") for name in BlockDiffusionLM(config).state_dict())


def test_low_precision_predictions_are_nearly_the_same(model):
    hidden = torch.randn(2, 3, 32)
    exact = model.logits(hidden)
    low = model.bfloat16().logits(hidden.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low[..., TEXT], exact[..., TEXT], rtol=0.02, atol=0.05)


def test_without_ids_that_are_never_text_all_rows_speak():
    model = BlockDiffusionLM(BackboneConfig(V, 32, 1, 16, active=ROWS))
    assert model.row_scores(torch.randn(1, 2, 32)).isfinite().all()
