from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN
from ssdcli.data.windows import conversation_width, in_blocks, plain_width

END, SIZE = 0, 4
LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


def plain(length: int) -> tuple[np.ndarray, np.ndarray]:
    """A document of the tokens 1, 2, ... between its ends of text."""
    tokens = np.array([END, *range(1, length + 1), END], dtype=np.uint16)
    marks = np.array([CLOSING, *[WRITTEN] * length, CLOSING], dtype=np.uint8)
    return tokens, marks


def talk(turns: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """A conversation of (asked, answered) tokens a turn, each answer closed by an end."""
    tokens, marks = [END], [CLOSING]
    for asked, answered in turns:
        tokens += [*range(len(tokens), len(tokens) + asked + answered), END]
        marks += [GIVEN] * asked + [WRITTEN] * answered + [CLOSING]
    return np.array(tokens, dtype=np.uint16), np.array(marks, dtype=np.uint8)


@given(st.integers(1, 20), st.integers(1, SIZE))
def test_a_plain_document_stands_whole_in_a_first_block_and_whole_others(length, lead):
    packed = in_blocks(*plain(length), lead, SIZE)
    assert packed.length == plain_width(length + 2, lead, SIZE) >= length + 2
    assert packed.tokens[0, : length + 2].tolist() == [END, *range(1, length + 1), END]
    sizes = packed.blocks[0].bincount().tolist()
    assert sizes[0] == lead
    assert set(sizes[1:]) <= {SIZE}
    assert packed.positions[0].tolist() == list(range(packed.length))


@given(st.integers(1, 20), st.integers(1, SIZE))
def test_all_but_the_opening_counts_the_end_too_and_nothing_behind_it(length, lead):
    packed = in_blocks(*plain(length), lead, SIZE)
    rest = packed.length - length - 2
    assert packed.scored[0].tolist() == [False, *[True] * (length + 1), *[False] * rest]
    assert packed.known[0].tolist() == [*[True] * (length + 1), *[False] * (rest + 1)]


def test_behind_the_end_stands_text_of_the_document_itself():
    packed = in_blocks(*plain(3), 2, 16)
    assert packed.tokens[0].tolist() == [END, 1, 2, 3, END, *[1, 2, 3] * 4, 1]


@given(LENGTHS)
def test_an_answer_begins_a_block_and_what_is_given_ends_one(turns):
    tokens, marks = talk(turns)
    packed = in_blocks(tokens, marks, 1, SIZE)
    assert packed.length == conversation_width(marks, SIZE)
    blocks, scored = packed.blocks[0], packed.scored[0]
    begins = [i for i in range(1, packed.length) if scored[i] and not scored[i - 1]]
    assert len(begins) == len(turns)
    for begin, (_, answered) in zip(begins, turns, strict=True):
        canvas = blocks[begin : begin + -(-(answered + 1) // SIZE) * SIZE]
        assert blocks[begin] == blocks[begin - 1] + 1
        assert canvas.bincount()[int(canvas[0]) :].tolist() == [SIZE] * (len(canvas) // SIZE)
    given = [b for b in blocks.unique().tolist() if not scored[blocks == b].any()]
    short = [b for b in given if int((blocks == b).sum()) < SIZE]
    assert all(b == 0 or b - 1 not in given for b in short)  # only the first block of what is given may be short


@given(LENGTHS)
def test_answers_and_their_ends_count_and_what_is_given_does_not(turns):
    tokens, marks = talk(turns)
    packed = in_blocks(tokens, marks, 1, SIZE)
    marked = [token for token, mark in zip(tokens[1:], marks[1:], strict=True) if mark != GIVEN]
    assert packed.tokens[packed.scored].tolist() == marked


@given(LENGTHS)
def test_later_turns_are_read_after_the_text_alone(turns):
    """Ends inside a conversation and what fills their blocks are no text, and take no positions from it."""
    tokens, marks = talk(turns)
    packed = in_blocks(tokens, marks, 1, SIZE)
    text = [int(token) for token, mark in zip(tokens[1:], marks[1:], strict=True) if mark != CLOSING]
    assert packed.tokens[packed.known].tolist() == [END, *text]
    assert packed.positions[packed.known].tolist() == list(range(len(text) + 1))


@pytest.mark.parametrize("lead", [1, 3])
def test_the_first_block_of_a_conversation_is_not_drawn(lead):
    tokens, marks = talk([(5, 3)])
    assert in_blocks(tokens, marks, lead, SIZE).blocks.tolist() == in_blocks(tokens, marks, 1, SIZE).blocks.tolist()
