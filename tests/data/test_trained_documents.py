"""A model recognises the documents that it was trained on, by digests that tell nothing of them."""

from __future__ import annotations

import random
import stat

import pytest

from ssdcli.data.split import PASSAGE_CHARACTERS
from ssdcli.data.trained_documents import TrainedDocuments
from ssdcli.errors import SsdError
from ssdcli.registry.archive import TRAINED_DOCUMENTS

DRAW = random.Random(0)


def words(count):
    return " ".join(f"{DRAW.randrange(10**6):x}" for _ in range(count))


def known(*texts):
    found = TrainedDocuments()
    for text in texts:
        found.add(text)
    return found


def trained_part(documents, text):
    return "".join(text[start:stop] for start, stop in documents.spans(text))


def test_a_document_is_known_by_its_words_whatever_its_white_space():
    text = words(50)
    for same in (text, text.replace(" ", "\n"), f"\t{text}  \n"):
        assert trained_part(known(text), same) == same
    assert known(text).spans(words(50)) == known(text).spans(text[1:]) == []


def test_of_a_longer_document_its_trained_beginning_is_known():
    """Text that was appended to a note is new, and so is the end that a split held out."""
    begun, added = words(40), words(20)
    assert trained_part(known(begun), f"{begun}\n\n{added}") == begun
    assert known(f"{begun} {added}").spans(begun) == []


def test_the_longest_beginning_that_was_a_document_counts():
    first, second, added = (words(40) for _ in range(3))
    text = f"{first} {second} {added}"
    assert trained_part(known(first, f"{first} {second}"), text) == f"{first} {second}"


@pytest.mark.parametrize(("count", "recognised"), [(31, False), (32, True)])
def test_a_beginning_of_32_words_is_recognised(count, recognised):
    begun = words(count)
    assert (trained_part(known(begun), f"{begun} {words(40)}") == begun) == recognised


def test_a_few_words_begin_many_texts():
    assert known("Dear landlord,").spans(f"Dear landlord, {words(40)}") == []
    assert known("Dear landlord,").spans("Dear landlord,") == [(0, 14)]


def test_of_a_long_document_the_parts_are_known_that_were_trained_on():
    lines = [words(30) + "\n" for _ in range(1500)]
    text = "".join(lines)
    assert len(text) > 2 * PASSAGE_CHARACTERS
    cut = text.rfind("\n", 0, PASSAGE_CHARACTERS) + 1
    following = text.rfind("\n", cut, cut + PASSAGE_CHARACTERS) + 1
    assert known(text[cut:following]).spans(text) == [(cut, following)]
    assert known(text[:cut], text[following:]).spans(text) == [(0, cut), (following, len(text))]


def test_what_is_kept_is_private_salted_and_read_again(tmp_path):
    text = "the key is under the third stone"
    first, second = known(text, "Größe", "é\ud800"), known(text)
    first.write(tmp_path)
    file = tmp_path / TRAINED_DOCUMENTS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not any(word in file.read_text() for word in text.split())
    assert TrainedDocuments.read(tmp_path) == first
    assert trained_part(TrainedDocuments.read(tmp_path), text) == text
    assert not first.digests & second.digests  # no two models' files can be compared
    assert TrainedDocuments.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", [b"", b"not hex\n", b"\xff"])
def test_a_damaged_file_is_told_of(tmp_path, content):
    (tmp_path / TRAINED_DOCUMENTS).write_bytes(content)
    with pytest.raises(SsdError, match=r"digests of training documents.*cannot be read"):
        TrainedDocuments.read(tmp_path)


def test_a_text_without_words_is_nothing():
    assert known("", " \n").digests == set()
