from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.engine.prompt import PADDING, Prompt, fit, reading_order

BLOCK = 4


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Prompts whose tokens tell their places: 0, 1, 2, ... before the canvas, 1000, 1001, ... after it."""
    before = draw(st.integers(1, 60))
    gap = draw(st.integers(0, 6)) * BLOCK
    known = draw(st.lists(st.booleans(), max_size=60)) if gap else []
    return Prompt(range(before), tuple(1000 + i if k else None for i, k in enumerate(known)), gap)


@given(prompts(), st.integers(26, 100))
def test_a_prompt_is_cut_to_the_window_and_keeps_what_is_near_the_canvas(prompt, context):
    kept = fit(prompt, context, BLOCK)
    room = context - max(prompt.gap, BLOCK)
    before, after = len(kept.before), len(kept.after)
    assert kept.gap == prompt.gap
    assert list(kept.before) == list(prompt.before)[-before:]
    assert kept.after == prompt.after[:after]
    assert before >= 1
    assert before + after == min(room, len(prompt.before) + len(prompt.after))  # no more is cut than must be


@given(prompts(), st.integers(26, 100))
def test_of_two_sides_only_one_that_has_half_of_the_room_loses_any(prompt, context):
    kept = fit(prompt, context, BLOCK)
    room = context - max(prompt.gap, BLOCK)
    half = room // 2
    assert len(kept.before) >= min(len(prompt.before), room - half)  # an odd token is the text's before the gap
    assert len(kept.after) >= min(len(prompt.after), half)


@pytest.mark.parametrize(("gap", "context"), [(0, BLOCK), (8, 8), (12, 8)])
def test_a_window_without_room_beside_the_gap_is_refused(gap, context):
    with pytest.raises(ValueError, match="no room"):
        fit(Prompt([1], (), gap), context, BLOCK)


def test_nothing_can_come_after_no_gap():
    with pytest.raises(ValueError, match="gap"):
        Prompt([1], [2])


@given(prompts())
def test_every_known_token_stands_at_its_place_in_the_text(prompt):
    order = reading_order(prompt, BLOCK)
    text = [*prompt.before, *[None] * prompt.gap, *prompt.after]
    assert order.canvas_at == len(prompt.before)
    assert order.positions == [place for place, token in enumerate(text) if token is not None]
    assert order.tokens == [text[place] for place in order.positions]


@given(prompts())
def test_blocks_are_counted_from_both_ends_of_the_gap_and_those_before_it_are_read_first(prompt):
    order = reading_order(prompt, BLOCK)
    behind = order.canvas_at + prompt.gap
    for rank, position in zip(order.ranks, order.positions, strict=True):
        if position < order.canvas_at:
            assert rank == -((order.canvas_at - 1 - position) // BLOCK)
        else:
            assert rank == (position - behind) // BLOCK + 1
    assert order.ranks == sorted(order.ranks)


def test_columns_are_padded_on_the_left():
    order = reading_order(Prompt([7, 8], [9], 4), BLOCK)
    tokens, positions, ranks = order.columns(5)
    assert tokens[2:] == [7, 8, 9]
    assert positions[2:] == [0, 1, 6]
    assert ranks == [PADDING, PADDING, 0, 0, 1]
    assert len(tokens) == len(positions) == 5
