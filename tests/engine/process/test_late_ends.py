"""Models that flood texts with ends: a masked process whose ends come late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.reverse import Choice
from ssdcli.engine.sampling.unmasking import Unmasking
from ssdcli.engine.steps import Step
from tests.engine.process.test_masked import ANY_SAMPLING, BY_TIME, SAMPLINGS, denoised, random_log_p
from tests.engine.process.toys import (
    GREEDY,
    OUTCOMES,
    TEXT,
    correlated_joint,
    counted,
    drawn_from,
    noise_of,
    sampler,
    times,
)
from tests.engine.samples import generated, run

MASK, END, TURN, SIZE = 9, 7, 8, 16  # 0 to 6 are text
PROCESS, ENDS = Masked(MASK + 1, MASK), (END, TURN)
LATE, HASTY = sampler(PROCESS, Choice(late=ENDS)), sampler(PROCESS)
WORDS = [3, 1, 4, 1, 5, 2]
ENOUGH = pytest.mark.parametrize("steps", [8, 16, 40])


class Flood:
    """Says WORDS one by one, each when those before it are known, and expects an end everywhere else.

    A row's prompt names how many words it says.
    """

    def start(self, prompts: Any) -> Tensor:
        return torch.tensor([prompt.before[0] for prompt in prompts])

    def denoise(self, canvas: Tensor, t: float, previous: Tensor | None, words: Tensor) -> Tensor:
        place = torch.arange(canvas.shape[1])
        said = (canvas == MASK).cumsum(-1) <= (canvas == MASK)
        wanted = torch.tensor(WORDS + [END] * (len(place) - len(WORDS))).expand(canvas.shape)
        speaks = said & (place < words[:, None])
        p = torch.full((*canvas.shape, MASK + 1), 0.01 / MASK)
        p[..., MASK] = 0
        surest = torch.where(speaks, 0.9, 0.99)[..., None]
        return p.scatter(-1, torch.where(speaks, wanted, END)[..., None], surest).log().log_softmax(-1)

    def commit(self, tokens: Tensor, words: Tensor) -> Tensor:
        return words


def write(one: Unmasking, words: list[int], **changes: Any) -> list[Step]:
    """One block by a flooding model, row i with its number of words."""
    fields: dict[str, Any] = {"block_size": SIZE, "max_tokens": SIZE, "picker": GREEDY, "ends": ENDS, "steps": 16}
    return run(Flood(), one, list(range(len(words))), [[count] for count in words], **{**fields, **changes})


def text(tokens: Tensor) -> list[int]:
    """What stands before the first end."""
    ids: list[int] = tokens.tolist()
    return ids[: next((place for place, id in enumerate(ids) if id in (END, TURN)), len(ids))]


@ENOUGH
def test_a_model_that_floods_ends_at_once_and_writes_its_text_where_ends_come_late(steps):
    (hasty,) = generated(write(HASTY, [6], steps=steps), PROCESS)
    assert len(text(hasty)) < 3
    (patient,) = generated(write(LATE, [6], steps=steps), PROCESS)
    assert text(patient) == WORDS


@ENOUGH
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_every_sampling_lets_ends_come_late(sampling, steps):
    patient = sampler(PROCESS, replace(sampling, late=ENDS))
    (tokens,) = generated(write(patient, [5], steps=steps), PROCESS)
    assert text(tokens) == WORDS[:5]


@pytest.mark.parametrize("words", [0, 1, 3, 6])
def test_a_row_is_done_with_the_step_after_its_last_word_and_is_clean(words):
    steps = write(LATE, [words])
    assert len(steps) == words + 1
    assert (steps[-1].canvas != MASK).all()
    assert (steps[-1].canvas[:, words:] == END).all()


def test_a_row_is_what_it_is_alone():
    counts = [6, 0, 3, 5, 1]
    together = write(LATE, counts, picker=Picker())
    for row, words in enumerate(counts):
        noise = {"picker": Picker()}
        fields: dict[str, Any] = {"block_size": SIZE, "max_tokens": SIZE, "ends": ENDS, "steps": 16}
        single = run(Flood(), LATE, [row], [[words]], **fields, **noise)
        assert [bool(step.active[row]) for step in together] == [place < len(single) for place in range(len(together))]
        assert all(torch.equal(a.canvas[row], b.canvas[0]) for a, b in zip(together, single, strict=False))


def test_an_end_that_nothing_expects_changes_nothing_bit_for_bit():
    @given(
        sampling=ANY_SAMPLING,
        remask=st.sampled_from([0.0, 0.3]),
        s=st.sampled_from([0.0, 0.3, 0.9]),
        seed=st.integers(0, 99),
    )
    def same(sampling: Choice, remask: float, s: float, seed: int) -> None:
        plain = sampler(Masked(TEXT + 1, mask_id=TEXT), replace(sampling, remask=remask))
        canvas = torch.randint(TEXT + 1, (3, 10), generator=torch.Generator().manual_seed(seed))
        steps = [
            one.step(canvas, Prediction(random_log_p(3, 10, seed)), times(s, 3), Picker(), noise_of(seed, 3))
            for one in (plain, replace(plain, late=(77,)))
        ]
        assert torch.equal(*steps)

    same()


@given(
    sampling=ANY_SAMPLING,
    remask=st.sampled_from([0.0, 0.3]),
    s=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
def test_no_more_than_its_share_stays_hidden_though_ends_come_late(sampling, remask, s, seed):
    patient = sampler(Masked(TEXT + 1, TEXT), replace(sampling, remask=remask, late=(0, 1)))
    canvas = torch.randint(TEXT + 1, (3, 10), generator=torch.Generator().manual_seed(seed))
    after = patient.step(canvas, Prediction(random_log_p(3, 10, seed)), times(s, 3), Picker(), noise_of(seed, 3))
    assert ((after == TEXT).sum(-1) <= 10 * s + 1e-6).all()
    assert torch.equal(after == canvas, (canvas != TEXT) | (after == TEXT)) or remask


@pytest.mark.parametrize(
    ("expected", "due", "revealed"),
    [
        ("aeeaee", 1, {0}),
        ("aeeaee", 2, {0, 3}),
        ("aeeaee", 3, {0, 3, 5}),
        ("aeeaee", 4, {0, 3, 5, 4}),
        ("eeeeee", 0, {0, 1, 2, 3, 4, 5}),
        ("eeeeee", 2, {0, 1, 2, 3, 4, 5}),
    ],
)
def test_ends_go_last_from_the_right_and_alone_from_the_left(expected, due, revealed):
    """The first end of a row of nothing but ends closes it."""
    p = torch.tensor(
        [
            [
                [0.6, 0.1, 0.1] + [0.2 / 4] * 4 + [0.0] * 3 if kind == "a" else [0.0] * 7 + [0.6, 0.4, 0]
                for kind in expected
            ]
        ]
    )
    canvas = torch.full((1, len(expected)), MASK)
    after = LATE.step(canvas, Prediction(p.log()), times(1 - due / len(expected), 1), GREEDY, CounterNoise([0]))
    assert set((after != MASK).nonzero()[:, 1].tolist()) == revealed


def test_what_is_hidden_before_an_end_is_still_to_come():
    canvas = torch.tensor([[1, MASK, END, MASK], [1, 2, TURN, MASK]])
    nothing = torch.full((2, 4, MASK + 1), 1 / MASK).log()
    nothing[..., MASK] = -torch.inf
    after = LATE.step(canvas, Prediction(nothing), times(0.5, 2), GREEDY, CounterNoise([0, 1]))
    assert after.tolist() == [[1, MASK, END, MASK], [1, 2, TURN, END]]
    remasking = sampler(PROCESS, Choice(remask=1e-9, late=ENDS))
    assert remasking.step(canvas, Prediction(nothing), times(0.5, 2), GREEDY, CounterNoise([0, 1]))[1, 3] == MASK


@pytest.mark.parametrize("sampling", BY_TIME, ids=str)
def test_one_position_a_step_samples_the_texts_of_the_joint_distribution(sampling):
    """What stands behind the first end is no text: outcomes that differ there alone are the same."""
    joint = (correlated_joint() + 0.005) / (1 + 0.005 * len(OUTCOMES))
    patient = sampler(Masked(TEXT + 1, mask_id=TEXT), replace(sampling, late=(2,)))
    ended = (OUTCOMES == 2).cumsum(-1) > 0
    codes = (torch.where(ended, 2, OUTCOMES) * torch.tensor([9, 3, 1])).sum(-1)
    texts = torch.zeros(len(OUTCOMES), dtype=torch.float64).index_add(0, codes, joint)
    canvas = denoised(patient, joint, (2 / 3, 1 / 3, 0), count=30_000)
    closed = torch.where((canvas == 2).cumsum(-1) > 0, 2, canvas)
    assert drawn_from(counted(patient.process, closed), texts)
