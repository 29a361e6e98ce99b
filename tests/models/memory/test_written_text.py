"""The text that is being written counts like an indexed one, and a longer text leaves the shorter one alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ssdcli.models.memory.text_index import Index
from ssdcli.models.memory.written_text import SHORTEST, WrittenText

TOKENS = st.lists(st.integers(0, 2), max_size=20)


def counts(text: WrittenText, before: list[int]) -> list[tuple[int, list[int], list[int]]]:
    return [(one.length, one.ids.tolist(), one.counts.tolist()) for one in text.followers(before)]


@given(TOKENS, TOKENS)
def test_followers_are_those_of_an_index_of_the_text_after_long_contexts(text: list[int], before: list[int]) -> None:
    indexed = [(one.length, one.ids.tolist(), one.counts.tolist()) for one in Index.of([text]).followers(before)]
    assert counts(WrittenText(text), before) == [one for one in indexed if one[0] >= SHORTEST]


@given(TOKENS, TOKENS, TOKENS)
def test_a_text_grown_in_parts_is_the_whole_text_and_its_beginning_stays(
    first: list[int], second: list[int], before: list[int]
) -> None:
    beginning = WrittenText(first)
    grown = beginning.followed_by(second)
    assert grown.tokens == [*first, *second]
    assert counts(grown, before) == counts(WrittenText([*first, *second]), before)
    assert beginning.tokens == first
    assert counts(beginning, before) == counts(WrittenText(first), before)


def test_two_texts_grown_from_one_do_not_see_each_other() -> None:
    beginning = WrittenText([1, 2, 3, 4])
    one, other = beginning.followed_by([1, 2, 3, 5]), beginning.followed_by([1, 2, 3, 6])
    assert counts(one, [1, 2, 3]) == [(3, [4, 5], [1, 1])]
    assert counts(other, [1, 2, 3]) == [(3, [4, 6], [1, 1])]
