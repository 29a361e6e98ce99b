"""A memory as a member: what it predicts, and where it abstains."""

from __future__ import annotations

import pytest
import torch

from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.models.memory.memory_denoiser import DISCOUNT, MemoryDenoiser
from ssdcli.models.memory.memory_files import Memory, Origin, remember
from ssdcli.models.memory.text_index import BORDER

MASK = 6
TEXTS = [[0, 1, 2, 3], [4, 1, 2, 5]]


def held(texts: list[list[int]]) -> Memory:
    return remember(texts, [Origin("notes.md")] * len(texts))


def memory(texts: list[list[int]] = TEXTS) -> MemoryDenoiser:
    return MemoryDenoiser(held(texts), Masked(7, mask_id=MASK), 16)


def test_the_prediction_is_interpolated_absolute_discounting() -> None:
    p = memory().log_p([0, 1, 2]).exp()
    uniform = 1 / 6
    shortest = (1 - DISCOUNT) / 8 + DISCOUNT * 6 / 8 * uniform  # six different tokens in eight; 3 stands once
    after_two = (1 - DISCOUNT) / 2 + DISCOUNT * shortest  # 3 and 5 follow "2", and "1 2"
    after_one_two = (1 - DISCOUNT) / 2 + DISCOUNT * after_two
    assert p[3].item() == pytest.approx(1 - DISCOUNT + DISCOUNT * after_one_two, rel=1e-5)


def test_predictions_are_normalised_and_exclude_what_is_no_text() -> None:
    memory = MemoryDenoiser(held(TEXTS), Masked(7, mask_id=MASK), 16, excluded=[5])
    p = MemoryDenoiser(held([]), Masked(7, mask_id=MASK), 16, excluded=[5]).log_p([1]).exp()
    assert p.tolist() == pytest.approx([0.2] * 5 + [0, 0])
    assert memory.log_p([4, 1]).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_it_abstains_where_the_left_neighbour_is_hidden() -> None:
    member = memory()
    prefix = member.start([Prompt([0]), Prompt([4])])
    log_p = member.denoise(torch.tensor([[1, MASK, MASK, 3], [MASK, MASK, 2, MASK]]), 0.5, None, prefix)
    speaks = ~log_p.isnan().all(-1)
    assert speaks.tolist() == [[False, True, False, False], [True, False, False, True]]
    assert log_p[0, 1].argmax() == 2
    assert log_p[1, 3, 3] == log_p[1, 3, 5]  # only the "2" before it is known, which both follow once


def test_a_row_is_what_it_is_alone() -> None:
    member = memory()
    canvas = torch.tensor([[1, MASK], [2, MASK]])
    prompts = [Prompt([0]), Prompt([4, 1])]
    both = member.denoise(canvas, 1.0, None, member.start(prompts))
    for row in (0, 1):
        alone = member.denoise(canvas[row : row + 1], 1.0, None, member.start(prompts[row : row + 1]))
        assert torch.equal(alone[0], both[row]) or torch.equal(alone[0].nan_to_num(), both[row].nan_to_num())


def test_a_committed_block_is_read_like_a_prompt() -> None:
    member = memory()
    canvas = torch.full((1, 2), MASK)
    grown = member.commit(torch.tensor([[1, 2]]), member.start([Prompt([4])]))
    told = member.denoise(canvas, 1.0, None, grown)
    assert torch.equal(told[0, 0], member.denoise(canvas, 1.0, None, member.start([Prompt([4, 1, 2])]))[0, 0])


def test_the_beginning_of_a_text_is_a_context() -> None:
    assert memory([[0, 1], [0, 2]]).log_p([BORDER]).argmax() == 0


def test_tokens_behind_a_gap_decide() -> None:
    member = memory([[1, 2, 3], [1, 2, 3], [1, 4, 5]])
    assert member.log_p([1]).argmax() == 2
    assert member.log_p([1], [5]).argmax() == 4
    assert member.log_p([1], [None]).argmax() == 2


def test_hidden_tokens_further_right_are_counted() -> None:
    member = memory([[1, 2, 3, 4], [1, 2, 3, 4], [1, 5, 3, 0]])
    prefix = member.start([Prompt([1], after=[0, None], gap=2)])
    log_p = member.denoise(torch.full((1, 2), MASK), 1.0, None, prefix)
    assert log_p[0, 0].argmax() == 5
