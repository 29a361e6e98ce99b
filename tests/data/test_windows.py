from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.data.infilling import Infilling
from ssdcli.data.marking import GIVEN, WRITTEN
from ssdcli.data.windows import Windows, WindowShape
from tests.packed import texts_of

END, SIZE = 0, 4


def documents(*lengths: int) -> list[list[int]]:
    """Documents of tokens that occur once in all of them."""
    stops = np.cumsum(lengths) + 1
    return [list(range(stop - length, stop)) for length, stop in zip(lengths, stops, strict=True)]


def plain(*lengths: int, window: int = 16, seed: int = 3) -> Windows:
    return Windows(texts_of(documents(*lengths), END), WindowShape(window, SIZE), seed, 10_000)


def talks(*turns: tuple[int, int], window: int = 16, seed: int = 3) -> Windows:
    marks = [[GIVEN] * asked + [WRITTEN] * answered for asked, answered in turns]
    texts = texts_of(documents(*map(sum, turns)), END, marks)
    return Windows(texts, WindowShape(window, SIZE), seed, 10_000)


def column(windows: Windows, index: int, name: str) -> torch.Tensor:
    return windows[index]["columns"][name]


def epoch(windows: Windows, number: int) -> range:
    """The samples of an epoch."""
    windows[0]
    while len(windows._firsts) < number + 2:
        windows[windows._firsts[-1]]
    return range(windows._firsts[number], windows._firsts[number + 1])


def scored(windows: Windows, samples: range) -> list[int]:
    return [int(t) for i in samples for t in column(windows, i, "tokens")[column(windows, i, "scored")]]


@pytest.mark.parametrize("lengths", [(5, 9, 30, 1, 2), (100,), (1,), (3, 3, 3, 3, 3, 3, 3)])
def test_an_epoch_scores_every_token_and_repeats_less_than_fills_a_window(lengths):
    windows = plain(*lengths)
    for number in range(4):
        found = [token for token in scored(windows, epoch(windows, number)) if token != END]
        assert set(found) == set(range(1, sum(lengths) + 1))
        assert len(found) <= sum(lengths) + 16


def test_a_window_holds_stretches_of_documents_each_as_a_text_of_its_own():
    windows = plain(5, 9, 30, 1, 2, 7)
    for i in range(40):
        tokens, texts, known = (column(windows, i, name) for name in ("tokens", "texts", "known"))
        assert len(tokens) == 16
        assert sorted(texts.tolist()) == texts.tolist()
        for text in texts.unique():
            clean = [token for token in tokens[(texts == text) & known].tolist() if token != END]
            assert (
                clean == list(range(clean[0], clean[0] + len(clean))) if clean else not known[texts == text][1:].any()
            )


def test_plain_documents_leave_no_room_in_a_window():
    windows = plain(*range(1, 30))
    for i in epoch(windows, 0):
        assert not (column(windows, i, "known") & ~column(windows, i, "scored")).sum() > 16 / 2


@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 6)), min_size=1, max_size=12), st.integers(0, 3))
def test_a_conversation_that_fits_into_a_window_is_whole(turns, seed):
    windows = talks(*turns, window=24, seed=seed)
    first = np.cumsum([0, *map(sum, turns)])[:-1] + 1
    answers = [list(range(f + asked, f + asked + answered)) for f, (asked, answered) in zip(first, turns, strict=True)]
    seen = []
    for i in epoch(windows, 0):
        tokens, texts, counts = (column(windows, i, name) for name in ("tokens", "texts", "scored"))
        for text in texts[counts].unique():
            answer = tokens[(texts == text) & counts].tolist()
            assert answer.pop() == END
            assert answer in answers
            seen.append(answer)
    assert all(answer in seen for answer in answers)


def test_conversations_find_room_beside_each_other():
    turns = [(int(a), int(b)) for a, b in np.random.default_rng(0).integers(1, 30, (300, 2))]
    windows = talks(*turns, window=128)
    columns = 128 * len(epoch(windows, 0))
    needed = sum(asked + 1 + -(-(answered + 1) // SIZE) * SIZE for asked, answered in turns)
    assert columns < 1.05 * needed


def test_a_conversation_longer_than_a_window_is_cut():
    windows = talks((30, 10), window=16)
    found = [token for token in scored(windows, epoch(windows, 0)) if token != END]
    assert set(found) == set(range(31, 41))


def test_a_sample_is_the_same_whichever_was_asked_before():
    def fresh() -> Windows:
        gaps = Infilling(0.5, END)
        return Windows(texts_of(documents(5, 90, 30, 41), END), WindowShape(32, SIZE, gaps), 5, 500)

    windows = fresh()
    expected = [fresh()[i] for i in range(60)]
    for i in [*range(60), *range(59, -1, -1), *np.random.default_rng(0).permutation(60).tolist()]:
        sample = windows[i]
        assert sample["index"] == expected[i]["index"] == i
        assert all(torch.equal(sample["columns"][name], value) for name, value in expected[i]["columns"].items())


def test_epochs_are_shuffled_and_cut_anew():
    windows = plain(40, 40, 40, 40)
    firsts = [tuple(tuple(column(windows, i, "tokens").tolist()) for i in epoch(windows, n)) for n in range(6)]
    assert len(set(firsts)) == 6
    assert len({frozenset(windows_of_epoch) for windows_of_epoch in firsts}) == 6


def test_other_seeds_give_another_order():
    assert (
        len({str([column(plain(9, 8, 7, 30, seed=s), i, "tokens").tolist() for i in range(4)]) for s in range(5)}) == 5
    )


def test_grids_of_blocks_begin_at_every_phase():
    windows = plain(*[20] * 80, window=64)
    leads = set()
    for i in epoch(windows, 0):
        tokens, blocks, known = (column(windows, i, name) for name in ("tokens", "blocks", "known"))
        opening = ((tokens == END) & known).nonzero().squeeze(1).tolist()
        leads |= {int((blocks == blocks[place]).sum()) for place in opening if place + SIZE < len(tokens)}
    assert leads == {1, 2, 3, 4}


def test_gaps_are_opened_in_the_share_of_the_texts_that_is_asked_for():
    texts = texts_of(documents(*[60] * 100), END)

    def opened(share: float) -> int:
        windows = Windows(texts, WindowShape(62 + SIZE, SIZE, Infilling(share, END)), 0, 10_000)
        out_of_order = 0
        for i in epoch(windows, 0):
            blocks, of = column(windows, i, "blocks"), column(windows, i, "texts")
            out_of_order += sum(bool((blocks[of == text].diff() < 0).any()) for text in of.unique())
        return out_of_order

    every = opened(1.0)
    assert every > 90
    assert opened(0.0) == 0
    assert 0.3 * every < opened(0.5) < 0.7 * every


def test_a_text_has_a_gap_in_some_epochs_and_none_in_others():
    windows = Windows(texts_of(documents(60), END), WindowShape(62 + SIZE, SIZE, Infilling(0.5, END)), 0, 10_000)
    opened = 0
    for i in range(40):  # an epoch is one window, which begins with the text
        blocks = column(windows, i, "blocks")[column(windows, i, "texts") == 0]
        opened += bool((blocks.diff() < 0).any())
    assert 8 < opened < 32


def test_conversations_get_no_gaps():
    marks = [[GIVEN] * 30 + [WRITTEN] * 30] * 20
    texts = texts_of(documents(*[60] * 20), END, marks)
    windows = Windows(texts, WindowShape(80, SIZE, Infilling(1.0, END)), 0, 10_000)
    assert all((column(windows, i, "blocks").diff() >= 0).all() for i in epoch(windows, 0))


def test_the_stream_is_only_read():
    texts = texts_of(documents(30, 20), END)
    texts.tokens.flags.writeable = False
    windows = Windows(texts, WindowShape(16, SIZE), seed=0, samples=123)
    before = texts.tokens.tolist()
    column(windows, 3, "tokens").add_(1)
    assert texts.tokens.tolist() == before
    assert len(windows) == 123
