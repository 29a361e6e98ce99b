from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.sparse_simplex import SparseSimplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.models.core_traits import CoreTraits
from ssdcli.models.presets import PRESETS
from ssdcli.training import active_tokens as subject
from ssdcli.training.active_tokens import Division, active_ids, count_tokens, divide, nearest, smoothed
from ssdcli.training.build import build, shape
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from tests.packed import batch, plain
from tests.tiny import add_tiny
from tests.trainings import run, tiny_settings, write_text

V, MASK, ROWS = 300, 299, 12
NEVER = (MASK, 7)
OF: dict[str, Process] = {"masked": Masked(V, MASK), "simplex": SparseSimplex(V), "uniform": Uniform(V)}
PROCESSES = pytest.mark.parametrize("process", list(OF))


def text(length: int = 2000) -> np.ndarray:
    """Ids of which the first are frequent; none is `NEVER`."""
    draw = np.random.default_rng(0)
    found = (draw.pareto(1.0, length) * 4).astype(np.uint32)
    return found[(found < V) & ~np.isin(found, NEVER)]


def traits(width: int = 24) -> CoreTraits:
    generator = torch.Generator().manual_seed(0)
    return CoreTraits(torch.randn(V, width, generator=generator), NEVER)


def divided(rows: int = ROWS) -> Division:
    division = divide(traits(), text(), rows)
    assert division is not None
    return division


def wide(hidden: int, **changes: Any) -> TrainSettings:
    """Settings of any width: the command takes multiples of 32 only, which the law does not need."""
    settings = TrainSettings(data=("-",), block_size=4, **changes)
    object.__setattr__(settings, "hidden", hidden)
    return settings


def model_of(process: str = "masked", hidden: int = 32, **changes: Any) -> BlockDiffusionLM:
    settings = wide(hidden, **{"layers": 1, "context": 32, **changes})
    division = divided()
    return build(shape(settings, PRESETS[0], OF[process], traits(), (), division), traits(), division, 0)


@pytest.mark.parametrize("read", [1, 7, 1 << 20])
def test_tokens_are_counted_however_much_is_read_at_once(read, monkeypatch):
    monkeypatch.setattr(subject, "_READ", read)
    counts = count_tokens(text(), V)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [int((text() == token).sum()) for token in range(V)]


def test_active_are_the_most_frequent_tokens_that_occur_in_order_of_their_ids():
    counts = torch.tensor([0, 5, 1, 0, 9, 1, 2])
    assert active_ids(counts, 3).tolist() == [1, 4, 6]
    assert active_ids(counts, 100).tolist() == [1, 2, 4, 5, 6]


def test_every_token_belongs_to_the_active_one_most_like_it_and_active_ones_to_themselves():
    embeddings, active = torch.randn(V, 24, generator=torch.Generator().manual_seed(3)), torch.tensor([4, 20, 21, 250])
    embeddings[5] = 100 * embeddings[20]  # its length does not matter
    embeddings[21] = embeddings[20]  # nor that another is the same
    place = nearest(embeddings, active)
    cosines = torch.nn.functional.cosine_similarity(embeddings[:, None], embeddings[active], dim=-1)
    found = cosines.gather(1, place[:, None]).squeeze(1)
    torch.testing.assert_close(found, cosines.amax(1))
    assert place[active].tolist() == [0, 1, 2, 3]
    assert place[5] in (1, 2)


def test_likeness_is_found_in_the_main_directions_of_wide_embeddings():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(V, 40, generator=generator) @ torch.randn(40, 400, generator=generator)
    active = torch.arange(0, V, 3)
    cosines = torch.nn.functional.normalize(low, dim=-1) @ torch.nn.functional.normalize(low[active], dim=-1).T
    assert (nearest(low, active) == cosines.argmax(-1)).all()


def test_without_a_model_the_shares_give_every_token_its_smoothed_frequency():
    counts = torch.tensor([6, 0, 1, 1, 0, 0])
    row, is_text = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([True] * 5 + [False])
    share, floor = smoothed(counts, row, is_text)
    new = 3 / 10  # two of eight tokens were new when they came: (2 + 1) / (8 + 2)
    expected = (1 - new) * counts / 8 + new / 2 * torch.tensor([0, 1, 0, 0, 1, 0])
    by_row = torch.zeros(4).index_add(0, row, expected)
    torch.testing.assert_close(share.exp() * by_row[row], expected)
    torch.testing.assert_close(floor.exp(), new / 2 * torch.tensor([1.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("counts", [[3, 0, 0, 0], [1, 1, 1, 0], [2, 2, 2, 2]])
def test_whatever_the_text_holds_every_token_stays_possible(counts):
    share, floor = smoothed(torch.tensor(counts), torch.tensor([0, 1, 2, 2]), torch.ones(4, dtype=torch.bool))
    assert share.isfinite().all()
    assert floor.exp().sum() < 1


def test_a_small_vocabulary_is_not_divided():
    assert divide(traits(), text(), rows=V) is None
    assert divide(traits(), text()) is None
    assert divide(traits(), text(), rows=V - 1) is not None


def test_ids_that_are_never_text_have_the_last_row_to_themselves():
    division = divided()
    assert len(division.ids) == ROWS + 1
    assert division.ids[-1] == MASK
    assert (division.row == ROWS).nonzero().squeeze(1).tolist() == sorted(NEVER)
    assert division.share[list(NEVER)].isneginf().all()
    assert division.state()["size"].tolist() == division.row.bincount().tolist()
    assert torch.equal(division.row[division.ids], torch.arange(ROWS + 1))


def test_a_text_of_few_tokens_makes_few_rows():
    division = divide(traits(), np.array([3, 5, 3, 5, 9] * 20), ROWS)
    assert division is not None
    assert division.ids.tolist() == [3, 5, 9, MASK]
    assert sorted(set(division.row.tolist())) == [0, 1, 2, 3]


def test_rows_start_with_the_geometry_of_their_tokens_in_the_core():
    model, ids = model_of(hidden=24), divided().ids
    cosines = [torch.nn.functional.normalize(x, dim=-1) for x in (model.table.detach(), traits().embeddings[ids])]
    torch.testing.assert_close(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T)
    assert (model.config.vocabulary, model.config.active, model.config.rank) == (V, ROWS + 1, 24)


@pytest.mark.parametrize(("rows", "expected"), [(1 << 16, 200), ((1 << 16) + 1, 128)])
def test_only_tables_of_many_rows_are_of_low_rank(rows, expected):
    settings = wide(200, core="none", vocabulary=rows)
    assert shape(settings, PRESETS[0], OF["masked"], None, (), None).rank == expected


def test_a_whole_vocabulary_is_built_from_the_whole_core():
    settings = wide(24, layers=1)
    config = shape(settings, PRESETS[0], OF["masked"], traits(), (), None)
    model = build(config, traits(), None, 0)
    assert (config.active, config.suppressed, model.table.shape) == (None, NEVER, (V, 24))
    expected = torch.nn.functional.normalize(traits().embeddings, dim=-1)
    torch.testing.assert_close(torch.nn.functional.normalize(model.table.detach(), dim=-1), expected)


def samples(*indices: int) -> dict[str, Any]:
    rows = [torch.from_numpy(text()[i * 24 : i * 24 + 24].astype(np.int64)) for i in indices]
    return batch(plain(torch.stack(rows), 4), *indices)


@PROCESSES
def test_gradients_reach_every_row_and_every_other_weight(process):
    objective = Objective(model_of(process), OF[process], 0)
    if objective.backbone.self_conditioning is not None:
        torch.nn.init.normal_(objective.backbone.self_conditioning.weight, std=0.2)
    objective(**samples(*range(8))).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    table = objective.backbone.table.grad
    assert table is not None
    assert (table[:-1].abs().amax(-1) > 0).all()
    assert (table[-1].abs().amax() > 0) or process == "uniform"  # which draws all ids, but seldom these


@PROCESSES
def test_the_loss_is_that_of_the_tokens_themselves(process, monkeypatch):
    """The head is asked for rows, but what is lost is the log-probability of tokens, without their floor."""
    backbone = model_of(process)
    backbone.vocabulary.load_state_dict(divided().state() | {"floor": torch.full((ROWS + 1,), -math.inf)})
    kept: dict[str, Tensor] = {}
    encode = backbone.encode

    def keeping(*args: Any) -> Tensor:
        kept["hidden"] = encode(*args)
        return kept["hidden"]

    monkeypatch.setattr(backbone, "encode", keeping)
    monkeypatch.setattr(type(OF[process]), "loss_weights", lambda self, canvas, t: torch.ones(t.shape))
    tokens = samples(0, 2, 4)["columns"]["tokens"]
    with torch.no_grad():
        loss = Objective(backbone, OF[process], 0)(**samples(0, 2, 4))
        log_p = torch.log_softmax(backbone.logits(kept["hidden"][:, : tokens.shape[1]]), dim=-1)
    assert float(loss) == pytest.approx(float(-log_p.gather(-1, tokens[..., None]).mean()), rel=1e-5)


def test_a_training_for_a_core_of_many_tokens_gives_a_model_of_few_rows(tmp_path, monkeypatch, capsys):
    """Sixteen tokens of 300 have rows; the registered model predicts all of them, and so does its ensemble."""
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(subject.divide, "__defaults__", (16,))
    add_tiny("core")
    settings = tiny_settings(write_text(tmp_path / "mine.txt"), core="core", block_size=None, vocabulary=8192)
    trained = run(settings, tmp_path / "home").trained
    model = load_backbone(trained.folder)
    assert (model.config.active, model.config.vocabulary) == (17, 300)
    assert model.logits(torch.randn(1, 2, 32)).shape == (1, 2, 300)
    assert trained.losses.nats_per_token().shape == (11,)
