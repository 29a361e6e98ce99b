from __future__ import annotations

import random

import pytest

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.split import (
    FEW_PASSAGES,
    PASSAGE_CHARACTERS,
    SplitSettings,
    fingerprint,
    split_documents,
)
from ssdcli.errors import UsageError
from ssdcli.text.messages import Message


def notes(count: int) -> list[Document]:
    return [Document(f"note {i}: {'word ' * (i % 7)}about {i * i}", f"{i}.txt") for i in range(count)]


def split(documents, report=None, **settings) -> tuple[set[str], set[str]]:
    """The texts for training and those held out."""
    sides: tuple[list[str], list[str]] = ([], [])
    for document, is_heldout in split_documents(documents, SplitSettings(**settings), report or ReadReport()):
        sides[is_heldout].append(document.text)
    assert len(set(sides[0])) == len(sides[0])
    assert len(set(sides[1])) == len(sides[1])
    return set(sides[0]), set(sides[1])


def shuffled(documents: list[Document]) -> list[Document]:
    return random.Random(3).sample(documents, len(documents))


@pytest.mark.parametrize("count", [1, 5, FEW_PASSAGES - 1, FEW_PASSAGES, 500])
def test_the_split_depends_on_the_texts_and_the_seed_but_not_on_their_order(count):
    documents = notes(count)
    assert split(documents) == split(documents) == split(shuffled(documents))
    if count > 1:
        assert len({frozenset(split(documents, seed=seed)[1]) for seed in range(5)}) > 1


@pytest.mark.parametrize("fraction", [0.05, 0.3])
def test_the_held_out_fraction_is_roughly_what_was_asked(fraction):
    train, heldout = split(notes(4000), heldout_fraction=fraction)
    assert len(train) + len(heldout) == 4000
    assert abs(len(heldout) / 4000 - fraction) < 0.02


@pytest.mark.parametrize("count", [FEW_PASSAGES, 25, 40])
def test_something_is_always_held_out_for_any_seed(count):
    for seed in range(50):
        train, heldout = split(notes(count), seed=seed)
        assert heldout
        assert len(train) + len(heldout) == count
        assert len(heldout) < count / 2


def test_adding_documents_moves_none_from_training_to_held_out():
    train, heldout = split(notes(1000))
    more_train, more_heldout = split(notes(1500))
    assert heldout <= more_heldout
    assert train <= more_train


def test_duplicates_count_once_whatever_their_white_space():
    documents = notes(200)
    copies = [Document(f"  {document.text.replace(' ', '  ')}\n", "copy") for document in documents]
    report = ReadReport()
    train, heldout = split(documents + copies, report)
    assert (train, heldout) == split(documents)
    assert not train & heldout
    assert report.skipped == {"duplicate": 200}
    assert "skipped 200 documents: duplicate (first: copy)" in report.lines()


def test_the_same_passage_never_lies_on_both_sides():
    shared = "".join(f"shared line {i}\n" for i in range(PASSAGE_CHARACTERS // 10))
    documents = [Document(f"{shared[:PASSAGE_CHARACTERS]}{i}", str(i)) for i in range(30)] + notes(100)
    for seed in range(6):
        sides: dict[str, set[bool]] = {}
        for document, is_heldout in split_documents(documents, SplitSettings(seed), ReadReport()):
            sides.setdefault(document.text, set()).add(is_heldout)
        assert all(len(found) == 1 for found in sides.values())


def test_one_huge_document_cannot_fall_on_one_side():
    huge = Document("".join(f"{i} is a number of this book.\n" for i in range(40_000)), "book.txt")
    for seed in range(4):
        train, heldout = split([huge, *notes(30)], seed=seed)
        size = sum(map(len, heldout)) / sum(map(len, train | heldout))
        assert 0 < size < 0.3
        assert max(map(len, train)) <= PASSAGE_CHARACTERS


def test_a_single_document_is_cut_between_paragraphs_and_its_end_held_out():
    text = "\n\n".join(f"Paragraph {i}. " + "It has words. " * 10 for i in range(100))
    (train,), (heldout,) = split([Document(text, "a.txt")])
    assert train + heldout == text
    assert train.endswith("\n\n")
    assert heldout.startswith("Paragraph")
    assert 0.04 < len(heldout) / len(text) < 0.2


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""])
def test_a_text_without_paragraphs_is_cut_at_lines_then_words_then_anywhere(separator):
    text = separator.join(["wort"] * 1500)
    (train,), (heldout,) = split([Document(text, "a.txt")])
    assert train + heldout == text
    assert train.endswith(separator)
    assert 0.04 < len(heldout) / len(text) < 0.25


def test_a_paragraph_break_far_from_the_end_is_not_taken():
    text = "Title\n\n" + "a line of the text\n" * 500
    (train,), (heldout,) = split([Document(text, "a.txt")])
    assert len(heldout) < len(train) / 3


@pytest.mark.parametrize("size", [60, 150, 400])
def test_of_few_short_documents_more_than_half_of_what_is_wanted_is_held_out(size):
    documents = [Document(f"{number:02} ".ljust(size, "x"), f"{number}.txt") for number in range(15)]
    wanted = min(1_000, 0.2 * 15 * size)
    _, heldout = split(documents, heldout_fraction=0.05)
    assert wanted / 2 < sum(map(len, heldout)) <= wanted


def test_few_short_documents_are_held_out_whole_or_by_their_end():
    documents = notes(12)
    train, heldout = split(documents)
    whole = sum(len(document.text) for document in documents)
    held = sum(map(len, heldout))
    assert sum(map(len, train)) + held == whole
    assert 0.05 * whole < held < 0.4 * whole
    assert not train & heldout


def talks(count: int, length: int = 1) -> list[Document]:
    return [
        Document.conversation((Message("user", f"What is {i}?"), Message("assistant", f"It is {i}. " * length)), str(i))
        for i in range(count)
    ]


@pytest.mark.parametrize(("count", "length"), [(2, 10_000), (3, 1), (12, 40), (FEW_PASSAGES, 2_000), (60, 3)])
def test_a_conversation_lies_whole_on_one_side_and_some_are_held_out_whatever_the_seed(count, length):
    documents = talks(count, length)
    for seed in range(8):
        found = list(split_documents(documents, SplitSettings(seed), ReadReport()))
        assert sorted(document.source for document, _ in found) == sorted(document.source for document in documents)
        assert all(document in documents for document, _ in found)
        held = sum(is_heldout for _, is_heldout in found)
        assert 0 < held <= max(1, count // 2)


def test_texts_are_cut_beside_conversations():
    documents = [*talks(3, 400), Document("a line of the text\n" * 500, "a.txt")]
    for seed in range(10):
        found = list(split_documents(documents, SplitSettings(seed), ReadReport()))
        assert [document for document, _ in found if document.turns] == sorted(
            documents[:3], key=[document for document, _ in found].index
        )
        assert {is_heldout for _, is_heldout in found} == {False, True}


def test_nothing_comes_out_of_nothing():
    assert split([]) == (set(), set())


def test_splitting_streams():
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield Document(f"note {i}", "")

    found = split_documents(endless(), SplitSettings(), ReadReport())
    for _ in range(100):
        next(found)
    assert len(taken) < 150


def test_the_fingerprint_names_the_set_of_documents():
    def of(documents, seed=0):
        report = ReadReport()
        split(documents, report, seed=seed)
        return fingerprint(report.digests)

    documents = notes(50)
    assert of(documents) == of(shuffled(documents)) == of(documents + documents[:3]) == of(documents, seed=1)
    assert of(documents) != of(documents[1:])
    assert len(of(documents)) == 64
    int(of(documents), 16)


def test_words_of_distinct_documents_are_counted():
    report = ReadReport()
    split([Document("three little words", "a"), Document("three  little words", "b")], report)
    assert report.words == 3


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 5, float("nan")])
def test_a_fraction_outside_zero_and_one_is_refused(fraction):
    with pytest.raises(UsageError, match="held-out fraction"):
        SplitSettings(heldout_fraction=fraction)
