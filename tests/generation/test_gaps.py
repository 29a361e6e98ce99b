"""The text around what is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.generation.gaps import Frame

SENTENCE = "The ____ failed because ____."


def test_a_continuation_has_nothing_around_it():
    frame = Frame("Dear ____")
    assert (frame.passages, frame.before([]), frame.after(0)) == (1, "Dear ____", ())
    assert frame.text(["landlord"]) == "landlord"
    assert frame.certain([], "land") == "land"


def test_each_gap_sees_what_is_filled_before_it_and_all_that_comes_after():
    frame = Frame.with_gaps(SENTENCE)
    assert frame.passages == 2
    assert (frame.before([]), frame.after(0)) == ("The", (" failed because", "."))
    assert (frame.before([" boiler"]), frame.after(1)) == ("The boiler failed because", (".",))
    assert frame.text([" boiler", " it was old"]) == "The boiler failed because it was old."


@pytest.mark.parametrize("prompt", ["no gap", "a ___ b", "", "____"])
def test_a_gap_is_four_underscores_or_more(prompt):
    assert Frame.with_gaps(prompt).passages == int(prompt == "____")
    assert Frame.with_gaps(prompt + " ______ and ____").passages == 2 + int(prompt == "____")


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
    assert Frame.with_gaps(prompt).text([fill]) == text


parts = st.lists(st.text(alphabet="ab _.", max_size=5).filter(lambda part: "____" not in part), min_size=2, max_size=5)


@given(parts, st.data())
def test_what_is_certain_stays(parts, data):
    prompt = "____".join(part.strip("_") for part in parts)
    frame = Frame.with_gaps(prompt)
    fills = data.draw(st.lists(st.text(alphabet="xy ", max_size=4), min_size=frame.passages, max_size=frame.passages))
    whole = frame.text(fills)
    for count in range(frame.passages):
        certain = frame.certain(fills[:count], "ignored")
        assert whole.startswith(certain)
        assert len(certain) >= len(frame.certain(fills[: max(count - 1, 0)], ""))
