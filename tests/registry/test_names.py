from __future__ import annotations

import pytest

from ssdcli.errors import UsageError
from ssdcli.registry.names import check_name, suggest


@pytest.mark.parametrize("name", ["a", "0", "notes", "my-notes_2.1", "a..b", "x" * 100])
def test_a_name_of_the_grammar_is_returned(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "it is empty"),
        ("..", "begins with '.'"),
        (".hidden", "begins with '.'"),
        ("-rf", "begins with '-'"),
        ("../notes", "looks like a path"),
        ("/etc/passwd", "looks like a path"),
        ("a/b", "looks like a path"),
        ("a\\b", "looks like a path"),
        ("my notes", "contains ' '"),
        ("notes\n", "contains '\\n'"),
        ("notes\0", "contains '\\x00'"),
        ("naïve", "contains 'ï'"),
        ("٣", "begins with '٣'"),
        ("x" * 101, "it has 101 characters"),
        ("X" * 101, "it has 101 characters"),
    ],
)
def test_what_is_outside_the_grammar_is_refused_with_its_fault(name, fault):
    with pytest.raises(UsageError) as caught:
        check_name(name)
    assert fault in caught.value.problem
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_upper_case_is_refused_with_the_lower_case_name():
    with pytest.raises(UsageError, match=r"Did you mean 'notes'\?"):
        check_name("Notes")


def test_the_nearest_known_name_is_suggested():
    assert suggest("note", ["starter", "notes"]) == "Did you mean 'notes'?"


def test_nothing_is_suggested_when_nothing_is_near():
    assert suggest("zzz", ["starter", "notes"]) == ""
