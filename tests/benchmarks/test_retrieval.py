from __future__ import annotations

from benchmarks.lib.gaps import Gap
from benchmarks.lib.retrieval import Library, Shelf

END, BETWEEN = 0, 99
NOTES = [[1, 1, 2, 3], [1, 4, 5, 6], [1, 7, 8, 2, 9, 1]]


def gap(*before: int, key: int = 0) -> Gap:
    return Gap(0, list(before), [1] * 4, 4, [], key)


def shelf(room: int) -> Shelf:
    return Shelf(Library(NOTES, 4), END, [BETWEEN], room)


def test_the_note_with_the_rarest_tokens_in_common_is_found() -> None:
    assert Library(NOTES, 4).best([1, 5]) == NOTES[1]
    assert Library(NOTES, 4).best([1, 1, 1, 3]) == NOTES[0]


def test_long_notes_are_found_by_their_pieces() -> None:
    assert Library(NOTES, 4).best([9]) == [9, 1]


def test_a_text_that_shares_no_token_with_any_note_gets_one_all_the_same() -> None:
    assert Library(NOTES, 4).best([77]) == NOTES[0]


def test_a_note_stands_between_the_opening_and_the_text() -> None:
    assert shelf(20).view()(gap(END, 5, 1)).before == [END, *NOTES[1], BETWEEN, 5, 1]


def test_of_a_long_text_the_beginning_gives_way_to_the_note() -> None:
    shown = shelf(8).view()(gap(END, 1, 1, 1, 5, 4))
    assert shown.before == [END, *NOTES[1], BETWEEN, 5, 4]
    assert len(shown.before) == 8


def test_the_token_behind_a_gap_is_never_looked_at() -> None:
    one, other = gap(END, 5, key=1), Gap(0, [END, 5], [9, 9, 9, 9], 4, [9], 2)
    assert shelf(20).view()(one).before == shelf(20).view()(other).before
