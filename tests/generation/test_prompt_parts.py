"""The text around what is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.generation.prompt_encoder import PromptParts

SENTENCE = "The ____ failed because ____."


def test_a_continuation_has_nothing_around_it():
    parts = PromptParts("Dear ____")
    assert (parts.gaps, parts.before([]), parts.after(0)) == (1, "Dear ____", ())
    assert parts.text(["landlord"]) == "landlord"
    assert parts.certain([], "land") == "land"


def test_each_gap_sees_what_is_filled_before_it_and_all_that_comes_after():
    parts = PromptParts.with_gaps(SENTENCE)
    assert parts.gaps == 2
    assert (parts.before([]), parts.after(0)) == ("The", (" failed because", "."))
    assert (parts.before([" boiler"]), parts.after(1)) == ("The boiler failed because", (".",))
    assert parts.text([" boiler", " it was old"]) == "The boiler failed because it was old."


@pytest.mark.parametrize("prompt", ["no gap", "a ___ b", "", "____"])
def test_a_gap_is_four_underscores_or_more(prompt):
    assert PromptParts.with_gaps(prompt).gaps == int(prompt == "____")
    assert PromptParts.with_gaps(prompt + " ______ and ____").gaps == 2 + int(prompt == "____")


@pytest.mark.parametrize(
    ("prompt", "fill", "text"),
    [
        ("The ____ fell", " boiler", "The boiler fell"),
        ("The ____ fell", "boiler ", "The boiler fell"),
        ("The ____ fell", "", "The fell"),
        ("(____)", " boiler", "(boiler)"),
        ("____ fell", " It", "It fell"),
        ("if x:\n    ____\n", " return", "if x:\n    return\n"),
    ],
)
def test_spaces_are_those_of_the_prompt(prompt, fill, text):
    assert PromptParts.with_gaps(prompt).text([fill]) == text


pieces = st.lists(st.text(alphabet="ab _.", max_size=5).filter(lambda part: "____" not in part), min_size=2, max_size=5)


@given(pieces, st.data())
def test_what_is_certain_stays(pieces, data):
    prompt = "____".join(part.strip("_") for part in pieces)
    parts = PromptParts.with_gaps(prompt)
    fills = data.draw(st.lists(st.text(alphabet="xy ", max_size=4), min_size=parts.gaps, max_size=parts.gaps))
    whole = parts.text(fills)
    for count in range(parts.gaps):
        certain = parts.certain(fills[:count], "ignored")
        assert whole.startswith(certain)
        assert len(certain) >= len(parts.certain(fills[: max(count - 1, 0)], ""))
