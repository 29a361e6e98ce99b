from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssdcli.engine.denoiser import denoise_sequence
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.process.simplex import Simplex
from ssdcli.engine.process.uniform import Uniform
from ssdcli.models.backbones.block_diffusion import BackboneConfig, BlockDiffusionLM
from ssdcli.training.objective import Objective
from tests.packed import batch, plain

V, MASK, BLOCK, T = 30, 29, 4, 22
PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex", "uniform"])
OF: dict[str, Process] = {"masked": Masked(V, MASK), "simplex": Simplex(V), "uniform": Uniform(V)}


def make(process: str, seed: int = 0, **changes: Any) -> Objective:
    fields: dict[str, Any] = {
        "vocabulary": V,
        "hidden": 32,
        "layers": 2,
        "rank": 16,
        "block_size": BLOCK,
        "context": 64,
        "timed": OF[process].timed,
        "self_conditioned": OF[process].self_conditioned,
        "suppressed": (MASK,) if process == "masked" else (),
    }
    torch.manual_seed(0)
    backbone = BlockDiffusionLM(BackboneConfig(**{**fields, **changes}))
    if backbone.self_conditioning is not None:
        torch.nn.init.normal_(backbone.self_conditioning.weight, std=0.2)
    return Objective(backbone, OF[process], seed)


def samples(*indices: int) -> dict[str, Any]:
    """Sample i is the same tokens in any batch."""
    rows = [torch.randint(V - 1, (T,), generator=torch.Generator().manual_seed(i)) for i in indices]
    return batch(plain(torch.stack(rows), BLOCK, 1), *indices)


def loss_of(objective: Objective, *indices: int) -> float:
    with torch.no_grad():
        return float(objective(**samples(*indices)))


@PROCESSES
def test_the_loss_is_a_function_of_seed_and_samples(process):
    objective = make(process)
    loss = loss_of(objective, 4, 5, 6)
    torch.manual_seed(123)
    assert loss_of(objective, 4, 5, 6) == loss
    assert loss_of(make(process), 4, 5, 6) == loss
    assert loss_of(make(process, seed=1), 4, 5, 6) != loss
    assert loss_of(objective, 7, 8, 9) != loss
    same_tokens = samples(4, 5, 6) | {"index": torch.tensor([10, 11, 12])}
    with torch.no_grad():
        assert float(objective(**same_tokens)) != loss


@PROCESSES
def test_the_order_of_a_batch_does_not_matter(process):
    objective = make(process)
    assert loss_of(objective, 1, 2, 3, 8) == pytest.approx(loss_of(objective, 8, 3, 1, 2), rel=1e-5)


@PROCESSES
def test_a_batch_loses_the_mean_of_what_its_samples_lose_alone(process):
    objective = make(process)
    indices = range(12)
    alone = [loss_of(objective, i) for i in indices]
    assert loss_of(objective, *indices) == pytest.approx(sum(alone) / len(alone), rel=1e-5)


@PROCESSES
def test_a_model_that_knows_nothing_loses_the_log_of_its_vocabulary(process):
    objective = make(process)
    objective.backbone.table.data.zero_()
    known = V - len(objective.backbone.config.suppressed)
    losses = torch.tensor([loss_of(objective, i) for i in range(100)])
    # The masked objective is right in the mean over noise levels; each position of the others counts once.
    slack = 4 * float(losses.std()) / 10 + 1e-4
    assert abs(float(losses.mean()) - math.log(known)) < slack
    assert (float(losses.std()) < 1e-4) == (process != "masked")


@PROCESSES
def test_a_model_learns_what_follows_what(process):
    """Sequences that count up: all tokens are equally frequent, and each is given away by any other."""
    objective = make(process)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    losses = []
    for step in range(60):
        starts = torch.randint(V - 1, (16, 1), generator=torch.Generator().manual_seed(step))
        rows = plain((starts + torch.arange(T)) % (V - 1), BLOCK, step % BLOCK)
        loss = objective(**batch(rows, *range(16 * step, 16 * step + 16)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    unigram = math.log(V - 1)
    assert losses[0] > 0.75 * unigram
    assert sum(losses[-10:]) / 10 < 0.6 * unigram


@PROCESSES
def test_gradients_reach_every_parameter(process):
    objective = make(process)
    objective(**samples(0, 1, 2, 3)).backward()
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name


def conditioning_gradient(*indices: int) -> torch.Tensor:
    objective = make("simplex")
    objective(**samples(*indices)).backward()
    assert objective.backbone.self_conditioning is not None
    gradient = objective.backbone.self_conditioning.weight.grad
    return torch.zeros(1) if gradient is None else gradient


def test_every_second_sample_is_self_conditioned_and_no_other():
    assert (conditioning_gradient(0, 2, 4) == 0).all()
    assert (conditioning_gradient(1) != 0).any()
    # Silent samples add nothing: only the mean over more tokens makes the gradient smaller.
    torch.testing.assert_close(conditioning_gradient(3, 0, 2), conditioning_gradient(3) / 3)


def test_without_self_conditioning_there_is_no_input_at_all_and_with_it_the_loss_changes():
    objective = make("simplex")
    losses = [loss_of(objective, 2), loss_of(objective, 3)]
    assert objective.backbone.self_conditioning is not None
    objective.backbone.self_conditioning.weight.data.mul_(3)
    assert loss_of(objective, 2) == losses[0]
    assert loss_of(objective, 3) != losses[1]


def test_a_process_that_does_not_hear_itself_runs_the_model_once(monkeypatch):
    calls = {"masked": 0, "simplex": 0, "uniform": 0}
    for process in calls:
        objective = make(process)
        encode = objective.backbone.encode

        def counting(*args: Any, process: str = process, encode: Any = encode) -> torch.Tensor:
            calls[process] += 1
            return encode(*args)

        monkeypatch.setattr(objective.backbone, "encode", counting)
        loss_of(objective, 0, 1)
    assert calls == {"masked": 1, "simplex": 2, "uniform": 2}


def test_the_model_is_conditioned_on_its_first_prediction_without_gradient(monkeypatch):
    objective = make("simplex")
    backbone = objective.backbone
    seen: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]] = []
    condition, encode = backbone.condition, backbone.encode

    def noting(embedded: torch.Tensor, t: torch.Tensor | None, previous: torch.Tensor | None) -> torch.Tensor:
        assert t is not None
        seen.append((embedded, previous, t))
        return condition(embedded, t, previous)

    states: list[torch.Tensor] = []

    def keeping(*args: Any) -> torch.Tensor:
        states.append(encode(*args))
        return states[-1]

    monkeypatch.setattr(backbone, "condition", noting)
    monkeypatch.setattr(backbone, "encode", keeping)
    objective(**samples(0, 3, 2, 7))
    (first, first_previous, first_level), (embedded, previous, level) = seen
    assert first_previous is None
    assert previous is not None
    assert not previous.requires_grad
    assert not states[0].requires_grad
    assert torch.equal(first, embedded[[1, 3]])
    assert torch.equal(first_level, level[[1, 3]])
    expected = backbone.embed_mixture(backbone.logits(states[0][:, :T]).softmax(-1))
    torch.testing.assert_close(previous[[1, 3]], expected)
    assert (previous[[0, 2]] == 0).all()


@PROCESSES
def test_the_loss_is_the_weighted_cross_entropy_of_all_blocks_in_one_pass(process, monkeypatch):
    objective = make(process)
    backbone = objective.backbone
    kept: dict[str, Any] = {}
    process_class = type(objective.process)
    corrupt = process_class.corrupt

    def noting(self: Any, tokens: torch.Tensor, t: torch.Tensor, noise: Any) -> torch.Tensor:
        kept.update(t=t, canvas=corrupt(self, tokens, t, noise))
        return kept["canvas"]

    monkeypatch.setattr(process_class, "corrupt", noting)
    loss = loss_of(objective, 0, 2, 4)
    t, packed = kept["t"], Packed(**samples(0, 2, 4)["columns"])
    tokens = packed.tokens
    embedded = objective.process.embed(kept["canvas"], backbone)
    level = t if objective.process.timed else None
    with torch.no_grad():
        hidden = denoise_sequence(backbone, embedded, packed, level)
        log_p = torch.log_softmax(backbone.logits(hidden), dim=-1)
    losses = -log_p.gather(-1, tokens[..., None]).squeeze(-1)
    weights = objective.process.loss_weights(kept["canvas"], t)
    assert loss == pytest.approx(float((weights * losses).sum() / tokens.numel()), rel=1e-5)


@PROCESSES
def test_a_block_has_one_level_and_every_block_another(process, monkeypatch):
    levels = []
    corrupt = type(OF[process]).corrupt

    def noting(*args: Any) -> torch.Tensor:
        levels.append(args[2])
        return corrupt(*args)

    monkeypatch.setattr(type(OF[process]), "corrupt", noting)
    loss_of(make(process), 0, 1)
    (t,) = levels
    blocks = samples(0, 1)["columns"]["blocks"]
    for row, numbers in zip(t, blocks, strict=True):
        assert len(row.unique()) == len(numbers.unique())
        assert all(len(row[numbers == number].unique()) == 1 for number in numbers.unique())


def neighbours(seed: int) -> Packed:
    """Two texts whose tokens are drawn from a seed around one that is always the same, in one row."""
    draws, own = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    lengths, sources = (9, 10, 7), (draws, own, draws)
    texts = [torch.randint(V - 1, (1, n), generator=source) for n, source in zip(lengths, sources, strict=True)]
    return Packed.joined([plain(text, BLOCK, 2) for text in texts])


@PROCESSES
def test_a_documents_loss_does_not_depend_on_its_neighbours(process):
    objective = make(process)

    def loss_of_the_middle(seed: int) -> float:
        packed = neighbours(seed)
        middle = replace(packed, scored=packed.texts == 1)
        with torch.no_grad():
            return float(objective(**batch(middle, 5)))

    def loss_of_all(seed: int) -> float:
        with torch.no_grad():
            return float(objective(**batch(neighbours(seed), 5)))

    assert loss_of_the_middle(0) == pytest.approx(loss_of_the_middle(1), rel=1e-6)
    assert loss_of_all(0) != pytest.approx(loss_of_all(1), rel=1e-3)


@PROCESSES
def test_what_does_not_count_is_neither_scored_nor_missed(process):
    objective, packed = make(process), Packed(**samples(0, 2)["columns"])
    none = replace(packed, scored=torch.zeros_like(packed.scored))
    left, right = (replace(packed, scored=packed.blocks % 2 == side) for side in (0, 1))
    with torch.no_grad():
        losses = [float(objective(**batch(rows, 0, 2))) for rows in (packed, left, right, none)]
    shares = [float(rows.scored.float().mean()) for rows in (left, right)]
    assert losses[0] == pytest.approx(losses[1] * shares[0] + losses[2] * shares[1], rel=1e-5)
    assert losses[3] == 0
