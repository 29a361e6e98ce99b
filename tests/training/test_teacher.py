from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import make_process
from ssdcli.models.active_vocabulary import ActiveVocabulary
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.training.objective import Objective
from ssdcli.training.teacher import Noised, Teacher, context_mask, denoise_in_context, text_lengths
from tests.packed import batch, plain
from tests.tiny import BLOCK, CONSTANTS, CONTEXT, VOCABULARY, tiny_backbone

PROCESSES = pytest.mark.parametrize("process", ["masked", "simplex", "uniform"])
OPENING, BETWEEN = 0, 5
IN_CONTEXT = partial(denoise_in_context, separator=(OPENING, BETWEEN))


def texts(*seeds: int, length: int = 20) -> Packed:
    """Texts drawn from seeds, side by side in one row, each behind the opening."""
    return Packed.joined([plain(text(seed, length), BLOCK, 3) for seed in seeds])


def text(seed: int, length: int) -> Tensor:
    drawn = torch.randint(6, 250, (1, length), generator=torch.Generator().manual_seed(seed))
    return drawn.index_fill(1, torch.tensor([0]), OPENING)


def taught(process: str, share: float, seed: int = 1, **changes: Any) -> Objective:
    """The objective of one tiny model that learns from another."""
    learner = tiny_backbone(0, process=process).requires_grad_(True)
    kind = make_process(process, VOCABULARY, CONSTANTS[process])
    core = tiny_backbone(seed, process=process)
    return Objective(learner, kind, 0, Teacher(core, kind, learner.vocabulary, share, **changes))


def alone(process: str) -> Objective:
    return Objective(
        tiny_backbone(0, process=process).requires_grad_(True), make_process(process, VOCABULARY, CONSTANTS[process]), 0
    )


def gradients(objective: Objective, index: int = 4) -> tuple[float, list[Tensor]]:
    loss = objective(**batch(texts(1, 2), index))
    loss.backward()
    found = [p.grad for p in objective.parameters() if p.grad is not None]
    return float(loss.detach()), found


@PROCESSES
def test_a_teacher_that_is_the_learner_itself_gives_no_gradient(process):
    _, lonely = gradients(alone(process))
    _, found = gradients(taught(process, 1.0, seed=0))
    largest = max(float(gradient.abs().max()) for gradient in lonely)
    assert all(gradient.abs().max() < 1e-4 * largest for gradient in found)


@PROCESSES
def test_a_teacher_without_weight_teaches_nothing(process):
    loss, lonely = gradients(alone(process))
    shown, found = gradients(taught(process, 0.0))
    assert shown == pytest.approx(loss, rel=1e-6)
    for one, other in zip(found, lonely, strict=True):
        torch.testing.assert_close(one, other)


@PROCESSES
def test_the_loss_that_is_shown_is_that_of_the_text_and_the_gradient_is_not(process):
    loss, lonely = gradients(alone(process), index=5)
    shown, found = gradients(taught(process, 0.5), index=5)
    assert shown == pytest.approx(loss, rel=1e-6)
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(found, lonely, strict=True))


def test_gradients_are_a_weighted_mean_of_the_texts_and_the_teachers():
    parts = [gradients(taught("masked", share))[1] for share in (0.0, 1.0, 0.3)]
    for text_alone, teacher_alone, both in zip(*parts, strict=True):
        torch.testing.assert_close(both, 0.7 * text_alone + 0.3 * teacher_alone, rtol=1e-3, atol=1e-5)


def test_a_learner_comes_to_predict_what_its_teacher_does():
    objective = taught("masked", 1.0)
    teacher = objective.teacher
    assert teacher is not None
    before = {name: value.clone() for name, value in teacher.backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    distances = []
    for step in range(24):
        optimizer.zero_grad()
        objective(**batch(texts(step, step + 1000), step)).backward()
        optimizer.step()
        distances.append(distance(objective.backbone, teacher))
    assert distances[-1] < 0.7 * distances[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.backbone.state_dict().items())
    assert all(p.grad is None for p in teacher.backbone.parameters())
    assert not any(p is q for p in objective.parameters() for q in teacher.backbone.parameters())


def distance(learner: BlockDiffusionLM, teacher: Teacher) -> float:
    """Mean total variation between their predictions of a noised text."""
    noised = noise(texts(77), "masked")
    pupil = replace(teacher, backbone=learner)
    with torch.no_grad():
        p, q = (one.probabilities(one.hidden(noised)) for one in (pupil, teacher))
    return float((p - q).abs().sum(-1).mean()) / 2


def noise(packed: Packed, process: str, level: float = 0.7) -> Noised:
    kind = make_process(process, VOCABULARY, CONSTANTS[process])
    t = torch.full(packed.tokens.shape, level)
    index = torch.arange(len(packed.tokens))
    return Noised(packed, kind.corrupt(packed.tokens, t, CounterNoise(index)), t)


def predictions(packed: Packed, process: str = "masked", **changes: Any) -> Tensor:
    """What a teacher makes of texts at one level, when noise is the same at each place: (T, V)."""
    teacher = taught(process, 1.0, **changes).teacher
    assert teacher is not None
    with torch.no_grad():
        return teacher.probabilities(teacher.hidden(noise(packed, process)))


@PROCESSES
def test_what_a_teacher_expects_is_a_distribution_over_text(process):
    p = predictions(texts(1, 2), process)
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p)))
    assert (p[:, 1:3] == 0).all()


def test_a_learner_with_an_active_vocabulary_is_taught_the_probabilities_of_its_rows():
    whole = taught("masked", 1.0).teacher
    assert whole is not None
    active = ActiveVocabulary(VOCABULARY, 10, (1, 2))
    active.row = torch.arange(VOCABULARY) % 9
    active.row[1:3] = 9
    noised = noise(texts(1), "masked")
    with torch.no_grad():
        p = whole.probabilities(whole.hidden(noised))
        pooled = replace(whole, vocabulary=active).probabilities(whole.hidden(noised))
    torch.testing.assert_close(pooled[:, 4], p[:, 4::9].sum(-1))
    assert (pooled[:, 9] == 0).all()


def test_a_text_is_read_as_context_in_front_of_itself_and_no_other_text_is():
    middle = slice(20, 40)
    both = predictions(texts(1, 2, 3), read=IN_CONTEXT)[middle]
    torch.testing.assert_close(predictions(texts(8, 2, 9), read=IN_CONTEXT)[middle], both)
    without = predictions(texts(1, 2, 3))[middle]
    assert (both - without).abs().max() > 1e-3


def test_the_last_token_of_a_text_that_is_its_own_context_is_seen_from_its_beginning():
    packed = texts(1, 2)
    other = replace(packed, tokens=packed.tokens.index_fill(1, torch.tensor([19]), 6))

    def first_block(rows: Packed, **changes: Any) -> Tensor:
        canvas = noise(packed, "masked")
        teacher = taught("masked", 1.0, **changes).teacher
        assert teacher is not None
        with torch.no_grad():
            return teacher.hidden(replace(canvas, packed=rows))[:5]

    torch.testing.assert_close(first_block(packed), first_block(other))
    assert (first_block(packed, read=IN_CONTEXT) - first_block(other, read=IN_CONTEXT)).abs().max() > 1e-3


def test_a_context_takes_the_room_that_its_text_leaves_in_the_window(monkeypatch):
    seen: list[Tensor] = []
    backbone = tiny_backbone(1)
    encode = backbone.encode

    def noting(embedded: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        seen.extend([positions, mask])
        return encode(embedded, positions, mask, cache)

    monkeypatch.setattr(backbone, "encode", noting)
    packed = texts(1, length=44)
    denoise_in_context(backbone, backbone.embed(packed.tokens), packed, None, (OPENING, BETWEEN))
    positions, mask = seen
    kept = CONTEXT - 44
    assert positions[0, :44].tolist() == list(range(kept, CONTEXT))
    assert torch.equal(positions[0, :44], positions[0, 44:88])
    assert positions[0, 88:][-kept:].tolist() == list(range(kept))
    assert mask[0, 0, 0, 88:].nonzero().squeeze(1).tolist() == list(range(44 - kept, 44))


def test_the_opening_of_a_text_behind_its_context_is_what_parts_paragraphs(monkeypatch):
    embedded: list[Tensor] = []
    backbone = tiny_backbone(1)
    embed = backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda tokens: embedded.append(tokens) or embed(tokens))
    packed = texts(1, 2)
    noised = embed(packed.tokens)
    denoise_in_context(backbone, noised, packed, None, (OPENING, BETWEEN))
    clean, context = embedded[-1].split(packed.length, dim=1)
    assert torch.equal(context, packed.tokens)
    assert (clean != packed.tokens).nonzero()[:, 1].tolist() == [0, 20]
    assert clean[0, [0, 20]].tolist() == [BETWEEN, BETWEEN]


def test_what_is_not_known_is_no_context():
    packed = texts(1, 2)
    packed = replace(packed, known=packed.known & (packed.positions < 15))
    assert text_lengths(packed).unique().tolist() == [15]
    mask = context_mask(packed, packed.known, BLOCK)[0, 0]
    hidden = ~packed.known[0]
    assert not mask[:40, 80:][:, hidden].any()
    assert (mask.sum(1) > 0).all()
