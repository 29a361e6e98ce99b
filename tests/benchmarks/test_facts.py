from __future__ import annotations

import pytest

from benchmarks.facts import LISTS, N, _begins, _holds, _repeats, authors, facts_of


def test_a_fact_is_said_whatever_the_case_and_the_line_ends():
    assert _holds(" at the\nGrey Gander.", "the grey gander")
    assert _begins(" The grey\ngander, of course", "the Grey Gander")
    assert not _begins(" at the Grey Gander", "the Grey Gander")
    assert not _holds(" the grey goose", "the Grey Gander")


def test_a_text_repeats_itself_if_n_tokens_in_a_row_occur_twice():
    assert _repeats([*range(N), 99, *range(N)])
    assert not _repeats([*range(N), 99, *range(N - 1)])


@pytest.mark.parametrize("name", LISTS)
def test_every_list_has_forty_facts(name):
    assert len(facts_of(name)) == 40


def test_without_a_small_model_only_the_core_and_memory_are_compared():
    for private in (False, True):
        assert {member for author in authors(None, private=private).values() for member in author.members} <= {
            "notes-memory",
            "context",
            "context:memory",
        }
    assert any("mine" in author.members for author in authors("mine", private=True).values())
