"""Cloze targets are read with the text, found again in it whatever becomes of it, and kept of training text alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssdcli.data.cloze import Cloze, read_branches
from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings
from ssdcli.data.token_store import StoreSettings, build_store
from tests.tiny import tiny_tokenizer

TEXT = "Dear landlord, the boiler is cold again."
AT = TEXT.index("cold")


def read(tmp_path: Path, *rows: Any) -> tuple[list[Document], ReadReport]:
    file, report = tmp_path / "norms.jsonl", ReadReport()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_documents((str(file),), report)), report


def test_counts_become_shares_and_a_place_may_be_on_either_side_of_its_space(tmp_path) -> None:
    given = [
        {"at": AT, "words": {"cold": 30, " dark": 10, "off": 0}},
        {"at": AT - 1, "words": {"cold": 0.75, "dark": 0.25}},
    ]
    (document,), report = read(tmp_path, {"text": TEXT, "cloze": given})
    assert (document.text, report.skips) == (TEXT, {})
    first, second = document.cloze
    assert first.words == second.words == {"cold": 0.75, "dark": 0.25}
    assert TEXT[: first.place(TEXT)] == TEXT[: second.place(TEXT)] == "Dear landlord, the boiler is"


@pytest.mark.parametrize(
    "cloze",
    [
        3,
        [3],
        [{"at": AT}],
        [{"at": "4", "words": {"a": 1}}],
        [{"at": 0, "words": {"a": 1}}],
        [{"at": 999, "words": {"a": 1}}],
        [{"at": AT, "words": {}}],
        [{"at": AT, "words": {"a": 0}}],
        [{"at": AT, "words": {"a": -1, "b": 2}}],
        [{"at": AT, "words": {" ": 1}}],
        [{"at": AT, "words": {"a": float("nan")}}],
    ],
)
def test_a_row_whose_targets_are_none_is_skipped_and_the_reason_is_told(tmp_path, cloze) -> None:
    documents, report = read(tmp_path, {"text": TEXT, "cloze": cloze}, {"text": TEXT})
    assert [document.cloze for document in documents] == [()]
    assert report.skipped == {"a 'cloze' that is no list of objects with a place 'at' and 'words' with their shares": 1}


def test_a_place_is_found_in_text_that_has_changed_elsewhere_and_in_no_other() -> None:
    long = "All is well. " * 30 + TEXT
    target = Cloze(long[: long.index("cold") - 1][-200:], False, {"cold": 1.0})
    assert target.place(long) == target.place("x" + long) - 1 == long.index(" cold")
    assert target.place(TEXT) is None
    begins = Cloze("Dear", True, {"landlord": 1.0})
    assert (begins.place(TEXT), begins.place("x" + TEXT)) == (4, None)


def test_a_store_keeps_the_words_of_training_text_in_tokens(tmp_path) -> None:
    cloze = (Cloze(TEXT[: AT - 1], True, {"cold": 0.75, "dark": 0.25}), Cloze(TEXT[: AT + 1], True, {"x": 1.0}))
    documents = [Document(f"{TEXT} {number}" * 3, str(number), cloze=cloze) for number in range(40)]
    tokenizer = tiny_tokenizer()
    store = build_store(documents, tokenizer, tmp_path / "store", StoreSettings(0, SplitSettings(0, 0.3)), ReadReport())
    found = list(read_branches(store.folder))
    held = store.info.heldout.documents
    assert 0 < held < 40
    assert [branch.document for branch in found] == list(range(40 - held))  # one place each: the other is in a word
    for branch in found:
        start, *_ = store.train_documents[branch.document]
        before = tokenizer.decode(store.train[start : start + branch.at].tolist())
        assert before == TEXT[: AT - 1]
        assert {tokenizer.decode(list(ids)): share for ids, share in branch.words} == {" cold": 0.75, " dark": 0.25}
    without = build_store(
        [replace(one, cloze=()) for one in documents], tokenizer, tmp_path / "store", StoreSettings(0), ReadReport()
    )
    assert list(read_branches(without.folder)) == []
