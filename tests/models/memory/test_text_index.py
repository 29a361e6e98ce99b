"""The index of a text finds what a plain search finds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.models.memory import text_index as module
from ssdcli.models.memory.text_index import BORDER, Index, shifted

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5)
CONTEXT = st.lists(st.integers(0, 3), max_size=6)


def counted(texts: list[list[int]], before: list[int]) -> Counter[int]:
    """How often each token follows a context, by looking at every place."""
    whole = [[BORDER, *text] for text in texts]
    n = len(before)
    return Counter(t[i] for t in whole for i in range(1, len(t)) if i >= n and t[i - n : i] == before)


@given(TEXTS, CONTEXT, st.booleans())
def test_followers_are_those_of_a_plain_search(texts: list[list[int]], context: list[int], begins: bool) -> None:
    before = [BORDER, *context] if begins else context
    index = Index.of(texts, depth=4)
    for followers in index.followers(before):
        expected = counted(texts, before[len(before) - followers.length :])
        assert dict(zip(followers.ids.tolist(), followers.counts.tolist(), strict=True)) == expected


@given(TEXTS, CONTEXT)
def test_the_longest_context_that_occurs_comes_last(texts: list[list[int]], before: list[int]) -> None:
    lengths = [followers.length for followers in Index.of(texts, depth=4).followers(before)]
    occurring = [n for n in range(min(4, len(before)) + 1) if counted(texts, before[len(before) - n :])]
    assert lengths == occurring


@given(TEXTS, CONTEXT, st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 3))
def test_matches_on_both_sides_are_those_of_a_plain_search(
    texts: list[list[int]], before: list[int], after: list[int], gap: int
) -> None:
    found = list(Index.of(texts, depth=4).between(before, after, gap))
    whole = [token for text in texts for token in [BORDER, *text]] + [BORDER]
    for n in range(min(4, len(before)), -1, -1):
        context = before[len(before) - n :]
        places = [
            i
            for i, token in enumerate(whole)
            if token != BORDER and i >= n and whole[i - n : i] == context and whole[i + gap : i + gap + 1] == after[:1]
        ]
        if places:
            assert sum(found[0].counts) == len(places)
            return
    assert not found


@pytest.mark.parametrize("limit", ["_GROUP", "_PART"])
def test_places_are_sorted_alike_in_groups_of_any_size(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [np.random.default_rng(seed).integers(0, 5, 50) for seed in range(4)]
    whole = Index.of(texts)
    monkeypatch.setattr(module, limit, 7)
    assert Index.of(texts).order.tolist() == whole.order.tolist()


def test_texts_are_shifted_into_as_few_bytes_as_their_ids_need() -> None:
    for highest, bytes_each in ((254, 1), (255, 2), (49_151, 2), (70_000, 4)):
        tokens = shifted([np.array([highest, 0], np.uint32), [], [1]])
        assert tokens.tolist() == [0, highest + 1, 1, 0, 0, 2, 0]
        assert tokens.itemsize == bytes_each


def test_a_large_vocabulary_fills_several_words() -> None:
    texts = [[200_000, 150_000, 200_000, 7], [150_000, 200_000, 9]]
    *_, longest = Index.of(texts).followers([200_000, 150_000, 200_000])
    assert (longest.length, longest.ids.tolist(), longest.counts.tolist()) == (3, [7], [1])


def test_each_place_is_known_by_its_text() -> None:
    index = Index.of([[1, 2], [], [3]])
    assert [index.text_of(place) for place in range(len(index.tokens)) if index.tokens[place] != BORDER] == [0, 0, 2]


def test_an_empty_text_has_no_followers() -> None:
    assert list(Index.of([]).followers([1])) == []
    assert list(Index.of([[]]).followers([])) == []


@given(TEXTS, st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_places_after_tokens_are_those_of_a_plain_search_beyond_the_depth_too(
    texts: list[list[int]], before: list[int]
) -> None:
    index = Index.of(texts, depth=3)
    whole, n = index.tokens.tolist(), len(before)
    expected = [i for i in range(n, len(whole)) if whole[i] != BORDER and whole[i - n : i] == before]
    assert sorted(index.places_after(before).tolist()) == expected


def test_a_text_with_half_of_its_runs_in_another_is_its_near_duplicate() -> None:
    letter, other = list(range(40)), list(range(100, 140))
    index = Index.of([letter, other, [], letter[:26] + other[:14], other[::-1]])
    assert index.unlike([letter]) == [1, 2, 4]
    assert index.unlike([[*letter[:38], 7, 7]]) == [1, 2, 4]
    assert index.unlike([letter[:12]]) == [1, 2, 4]  # a part of a text is one as well
    assert index.unlike([letter[:20] + [7] * 60]) == [0, 1, 2, 3, 4]
    assert index.unlike([letter[::-1]]) == [0, 1, 2, 3, 4]
    assert index.unlike([letter, other]) == [2, 4]
    assert index.unlike([]) == [0, 1, 2, 3, 4]


def test_a_text_shorter_than_a_run_is_its_own_duplicate_alone() -> None:
    texts = [[1, 2, 3], [1, 2, 4], [5], [5, 1, 2, 3, *range(20)], []]
    assert Index.of(texts).unlike([[1, 2, 3]]) == [1, 2, 3, 4]
    assert Index.of(texts).unlike([[5]]) == [0, 1, 3, 4]
    assert Index.of(texts).unlike([[]]) == [0, 1, 2, 3]
