"""A memory as a member: what it predicts, and where it abstains."""

from __future__ import annotations

import pytest
import torch

from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.engine.ensemble.schedules import Constant
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


LETTERS = [[3, 4, 5, 0, 1, 2], [0, 1, 2, 3, 4, 4]]
TEXT = [0, 1, 2, 3, 4, 5, 0, 1, 2, 5, 0, 1]


def test_in_exact_order_its_conditionals_are_what_it_says_of_canvases() -> None:
    member, block = memory(LETTERS), 4
    found = list(member.conditionals(TEXT, range(len(TEXT)), private=[1, 2, 5, 3]))
    prefix = member.start([Prompt((), private=[1, 2, 5, 3])])
    for start in range(0, len(TEXT), block):
        own = TEXT[start : start + block]
        for place in range(block):
            canvas = torch.tensor([own[:place] + [MASK] * (block - place)])
            said = member.denoise(canvas, 1 - place / block, None, prefix)
            assert torch.equal(said[0, place], found[start + place])
            assert said[0, place + 1 :].isnan().all()
        prefix = member.commit(torch.tensor([own]), prefix)


def test_some_places_are_asked_for_as_well_as_all() -> None:
    member = memory(LETTERS)
    every = list(member.conditionals(TEXT, range(len(TEXT))))
    for place, log_p in zip([2, 7, 8], member.conditionals(TEXT, [2, 7, 8]), strict=True):
        assert torch.equal(log_p, every[place])


def test_a_private_context_is_looked_up_by_the_row_that_has_it_alone() -> None:
    member = memory([[1, 2, 3]] * 5)
    prompts = [Prompt([0, 1, 2], private=[1, 2, 4]), Prompt([0, 1, 2])]
    told = member.denoise(torch.full((2, 1), MASK), 1.0, None, member.start(prompts)).exp()
    assert told[0, 0].argmax() == 4
    assert told[1, 0].argmax() == 3
    assert told[0, 0, 3] > 0.1  # what the memory knows still counts


def test_a_private_context_is_kept_from_block_to_block() -> None:
    member = memory([])
    prefix = member.commit(torch.tensor([[1, 2]]), member.start([Prompt([0], private=[1, 2, 4])]))
    assert member.denoise(torch.full((1, 1), MASK), 1.0, None, prefix)[0, 0].argmax() == 4


def test_the_text_that_is_written_is_looked_up_after_three_tokens() -> None:
    member = memory([[1, 2, 3, 4]] * 5)
    long = member.start([Prompt([1, 2, 3, 5, 0, 1, 2, 3])])
    short = member.start([Prompt([2, 3, 5, 0, 2, 3])])
    canvas = torch.full((1, 1), MASK)
    after_long, after_short = (member.denoise(canvas, 1.0, None, one)[0, 0].exp() for one in (long, short))
    assert after_long[5] > 0.3
    assert after_short[5] < 0.01


def test_a_commit_leaves_the_surroundings_before_it_alone() -> None:
    member = memory()
    before = member.start([Prompt([4])])
    canvas = torch.full((1, 1), MASK)
    first = member.denoise(canvas, 1.0, None, before)
    member.commit(torch.tensor([[1, 2]]), before)
    assert torch.equal(member.denoise(canvas, 1.0, None, before), first)


def test_an_empty_memory_abstains_everywhere_unless_there_is_a_private_context() -> None:
    member, canvas = memory([]), torch.full((2, 2), MASK)
    prefix = member.start([Prompt([0, 1, 2, 3]), Prompt([0], private=[5])])
    speaks = ~member.denoise(canvas, 1.0, None, prefix).isnan().all(-1)
    assert speaks.tolist() == [[False, False], [True, False]]
    assert all(one.isnan().all() for one in member.conditionals([1, 2], range(2)))
    assert not any(one.isnan().any() for one in member.conditionals([1, 2], range(2), private=[5]))


def test_at_weight_1_an_ensemble_is_the_memory_itself() -> None:
    member = memory()
    canvas = torch.tensor([[MASK, 1, MASK, MASK]])
    alone = member.denoise(canvas, 1.0, None, member.start([Prompt([0])]))
    for rule in (mix, average):
        ensemble = Ensemble((Member("memory", member, Constant(1.0), "memory"),), rule)
        together = ensemble.denoise(canvas, 1.0, None, ensemble.start([[Prompt([0])]], [1.0])).log_p
        assert torch.equal(together.nan_to_num(), alone.nan_to_num())
        assert torch.equal(together.isnan(), alone.isnan())


def test_its_predictions_do_not_depend_on_the_noise_level_or_the_step_before() -> None:
    member = memory()
    canvas, prefix = torch.full((1, 1), MASK), member.start([Prompt([1])])
    assert torch.equal(
        member.denoise(canvas, 0.1, torch.zeros(1, 1, 7), prefix), member.denoise(canvas, 1.0, None, prefix)
    )
