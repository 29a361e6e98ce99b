"""The passages of a long text that are most like a query."""

from __future__ import annotations

from ssdcli.text.passages import Bm25, most_relevant

TEXT = """The boiler is in the cellar. It was made in 1931.

The landlord lives on the first floor, and his cat is called Wilf.

Dark stairs lead up to the roof. Nobody has seen the cat there."""


def words(text: str) -> int:
    return len(text.split())


def test_passages_that_share_rare_words_come_first_and_stay_in_order() -> None:
    first, second, third = TEXT.split("\n\n")
    assert most_relevant(TEXT, "who lives on which FLOOR?", words, 14) == second
    assert most_relevant(TEXT, "a cat", words, 26) == f"{second}\n\n{third}"
    assert most_relevant(TEXT, "in the cellar, up the stairs", words, 25) == f"{first}\n\n{third}"
    assert most_relevant(TEXT, "nothing alike", words, 13) == first
    assert most_relevant(TEXT, "cat", words, 3) == second  # one at least


def test_long_paragraphs_are_cut_at_sentences() -> None:
    text = " ".join(f"This is sentence number {number} of a long paragraph." for number in range(40))
    found = most_relevant(text, "sentence 17", words, 120)
    assert " 17 " in found
    assert found.startswith("This is sentence number")
    assert found.endswith("paragraph.")
    assert 60 < words(found) <= 120


def test_a_long_text_without_sentences_is_cut_all_the_same() -> None:
    text = " ".join(f"word {number}" for number in range(2000))
    assert words(most_relevant(text, "1234", words, 120)) <= 120
    assert "1234" in most_relevant(text, "1234", words, 120)
    assert len(most_relevant("a" * 5000, "b", len, 1500)) == 1202


def test_rare_terms_count_more_than_frequent_ones() -> None:
    ranking = Bm25([["a", "b"], ["a", "a", "a"], ["c", "a"], ["a"]])
    assert ranking.ranked(["c", "a"])[0] == 2
    assert ranking.ranked(["x"]) == [0, 1, 2, 3]
    assert Bm25([]).ranked(["a"]) == []
