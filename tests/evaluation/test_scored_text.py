"""What is measured of a document, and how many bytes that is."""

from __future__ import annotations

import pytest

from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN
from ssdcli.evaluation.scored_text import scored_part
from tests.tiny import tiny_tokenizer

TEXT = "Größe für Übermut, 漢字 und 🐦. "  # its characters have one to four bytes
TOKENS = [0, *tiny_tokenizer().encode(TEXT * 60).ids[:1600]]


def one_text(marks: list[int], size: int = 99_999):
    return scored_part(TOKENS[: len(marks) + 1], marks, size, tiny_tokenizer())


def bytes_of(tokens) -> int:
    return len(tiny_tokenizer().decode(list(tokens)).encode())


@pytest.mark.parametrize("length", [1, 700, 1024])
def test_a_whole_document_has_the_bytes_that_it_had_as_text(length):
    found = one_text([WRITTEN] * length)
    assert list(found.tokens) == TOKENS[: length + 1]
    assert found.bytes == 99_999


@pytest.mark.parametrize("length", [1025, 1600])
def test_a_document_whose_end_is_cut_has_the_bytes_of_what_is_left(length):
    found = one_text([WRITTEN] * length)
    assert list(found.tokens) == TOKENS[:1025]
    assert found.bytes == bytes_of(found.tokens[1:])


def test_a_document_whose_beginning_is_cut_has_the_bytes_of_what_is_left():
    found = one_text([CLOSING] * 600 + [WRITTEN] * 20)
    assert list(found.tokens) == TOKENS[88:621]
    assert found.bytes == bytes_of(found.tokens[1:])


def test_of_a_conversation_the_text_around_its_first_answer_is_measured_and_only_answers_count():
    found = one_text([GIVEN] * 700 + [WRITTEN] * 30 + [CLOSING] + [GIVEN] * 10 + [WRITTEN] * 5)
    answers = [token for token, counts in zip(found.tokens, found.counted, strict=True) if counts]
    assert answers == [*TOKENS[701:731], *TOKENS[742:747]]
    assert found.bytes == bytes_of(answers)
    assert len(found.tokens) == 1 + 512 + 30 + 10 + 5
