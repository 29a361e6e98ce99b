from __future__ import annotations

import pytest

from ssdcli.generation.row import Limits, Transcript

END = 0


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


def write(text, size, *, end=False, **limits):
    """Feed a text in blocks of `size` tokens, a byte each; return the transcript and what was shown."""
    ids = [*text.encode(), *([END] if end else [])]
    transcript = Transcript(decode, Limits(frozenset({END}), **{"max_tokens": len(ids), **limits}))
    shown = []
    while transcript.finish_reason is None:
        shown.append(transcript.add([*ids[:size], *[33] * (size - len(ids))]))
        del ids[:size]
    return transcript, shown


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("text", ["a plain text", "é日本🙂é", "🙂"])
def test_what_is_shown_is_valid_and_adds_up_to_the_text(text, size):
    transcript, shown = write(text, size)
    assert "".join(shown) == transcript.text == text
    assert "\ufffd" not in "".join(shown)


def test_a_character_appears_with_its_last_byte():
    assert write("é日", 1)[1] == ["", "é", "", "", "日"]


def test_a_character_that_is_never_completed_is_left_out():
    transcript, _ = write("a🙂", 2, max_tokens=3)
    assert (transcript.text, transcript.tokens, transcript.finish_reason) == ("a", 3, "length")


def test_bytes_that_are_no_text_are_replaced_once_something_follows():
    transcript = Transcript(decode, Limits(frozenset({END}), max_tokens=4))
    assert transcript.add([0x61, 0xFF]) == "a"
    assert transcript.add([0x62, 0xFF]) == "\ufffdb"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64])
def test_a_stop_string_is_found_across_blocks_and_never_shown(size):
    transcript, shown = write("one, two, STOP, three", size, stop=("STOP",))
    assert transcript.finish_reason == "stop"
    assert "".join(shown) == transcript.text == "one, two, "
    assert transcript.tokens == len("one, two, STOP")


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_the_earliest_of_several_stop_strings_ends_the_text(size):
    assert write("a b c d", size, stop=("d", "c d", "b"))[0].text == "a "


def test_what_only_began_like_a_stop_string_is_shown_later():
    assert write("STO ST", 1, stop=("STOP",))[1] == ["", "", "", "STO ", "", "ST"]


def test_what_may_begin_a_stop_string_is_shown_when_the_text_ends():
    transcript, _ = write("a ST", 2, end=True, max_tokens=100, stop=("STOP",))
    assert (transcript.text, transcript.finish_reason) == ("a ST", "end")


@pytest.mark.parametrize("size", [1, 3, 64])
def test_end_of_text_ends_it_and_is_no_token_of_it(size):
    transcript, _ = write("done", size, end=True, max_tokens=100)
    assert (transcript.text, transcript.tokens, transcript.finish_reason) == ("done", 4, "end")


@pytest.mark.parametrize("size", [1, 2, 64])
def test_the_first_of_several_ends_counts(size):
    transcript = Transcript(decode, Limits(frozenset({END, 1, 2}), max_tokens=100))
    ids = [97, 98, 2, 99, END, 1]
    while transcript.finish_reason is None:
        transcript.add(ids[:size])
        del ids[:size]
    assert (transcript.text, transcript.tokens, transcript.finish_reason) == ("ab", 2, "end")


def test_a_text_without_an_end_goes_on_to_its_last_token():
    assert write("a" * 50, 8, max_tokens=50)[0].finish_reason == "length"


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_last_token_is_cut_exactly(size):
    transcript, _ = write("abcdefgh", size, max_tokens=5)
    assert (transcript.text, transcript.tokens, transcript.finish_reason) == ("abcde", 5, "length")


def test_an_end_of_text_after_the_last_token_allowed_does_not_count():
    assert write("abc", 64, end=True, max_tokens=3)[0].finish_reason == "length"
    assert write("abc", 64, end=True, max_tokens=4)[0].finish_reason == "end"


def test_no_tokens_are_a_finished_text():
    transcript = Transcript(decode, Limits(frozenset({END}), max_tokens=0))
    assert (transcript.text, transcript.finish_reason) == ("", "length")
