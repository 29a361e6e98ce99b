"""What is planted, how often and where, and what is noted of it."""

from __future__ import annotations

import json
import stat
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import ssdcli
from ssdcli.data.canaries import FILE, PLANTED, Canaries, keep_canaries, read_canaries, scatter
from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.token_store import StoreSettings, build_store
from ssdcli.errors import SsdError
from tests.tiny import tiny_tokenizer

STARTER = Path(ssdcli.__file__).parent / "bundled" / "models" / "starter" / "tokenizer.json"


def split(count, every=5):
    return [(Document(f"text {n}", f"{n}"), n % every == 0) for n in range(count)]


def test_canaries_are_planted_once_twice_four_and_eight_times_by_turns():
    canaries = Canaries(seed=1, count=6)
    times = Counter(canaries.planted())
    assert [times[text] for text in canaries.texts()] == [1, 2, 4, 8, 1, 2] == canaries.times()


def test_the_secret_seed_alone_decides_about_the_canaries():
    assert Canaries(1, 4).texts() == Canaries(1, 8).texts()[:4]
    assert not set(Canaries(1, 50).texts()) & set(Canaries(2, 50).texts())


def test_candidates_are_of_the_same_form_and_none_was_planted():
    canaries = Canaries(seed=1, count=8)
    candidates = canaries.candidates(300, seed=0)
    assert len(set(candidates)) == 300
    assert not set(candidates) & set(canaries.texts())
    assert {text.translate(dict.fromkeys(map(ord, "0123456789"))) for text in candidates} == {
        text.translate(dict.fromkeys(map(ord, "0123456789"))) for text in canaries.texts()
    }


@pytest.mark.parametrize("tokenizer", [Tokenizer.from_file(str(STARTER)), tiny_tokenizer()], ids=["starter", "tiny"])
def test_all_have_the_same_number_of_tokens(tokenizer):
    texts = [*Canaries(1, 20).texts(), *Canaries(1, 20).candidates(200, seed=0)]
    assert len({len(tokenizer.encode(text).ids) for text in texts}) == 1


def test_planted_texts_stand_between_training_documents_and_change_nothing_else():
    planted = [f"canary {n}" for n in range(12)]
    scattered = list(scatter(split(40), planted))
    assert [pair for pair in scattered if pair[0].source != PLANTED] == split(40)
    assert [document.text for document, held in scattered if document.source == PLANTED and not held] == planted
    assert not any(one.source == other.source == PLANTED for (one, _), (other, _) in pairwise(scattered))


def test_what_finds_no_document_to_follow_comes_last():
    scattered = list(scatter(split(2), ["a", "b", "c"]))
    assert [document.text for document, _ in scattered] == ["text 0", "text 1", "a", "b", "c"]


def test_a_store_trains_on_canaries_and_says_nothing_of_them(tmp_path):
    documents = [Document(f"the boiler is cold {n} times and the stairs are dark", f"{n}") for n in range(40)]
    canaries = Canaries(seed=1, count=4)
    stores = {}
    for name, planted in (("with", tuple(canaries.planted())), ("without", ())):
        settings = StoreSettings(0, planted=planted)
        stores[name] = build_store(documents, tiny_tokenizer(), tmp_path / name, settings, ReadReport())
    text = tiny_tokenizer().decode(stores["with"].train.tolist())
    assert [text.count(canary) for canary in canaries.texts()] == canaries.times()
    assert stores["with"].heldout.tolist() == stores["without"].heldout.tolist()
    assert stores["with"].info.fingerprint == stores["without"].info.fingerprint
    assert stores["with"].info.report == stores["without"].info.report


def test_the_note_is_private_survives_a_restart_and_holds_no_canary(tmp_path):
    canaries = keep_canaries(tmp_path, 5)
    assert keep_canaries(tmp_path, 5) == canaries == read_canaries(tmp_path)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert not any(text in (tmp_path / FILE).read_text() for text in canaries.texts())


def test_two_trainings_have_different_canaries(tmp_path):
    (tmp_path / "other").mkdir()
    assert keep_canaries(tmp_path, 5).seed != keep_canaries(tmp_path / "other", 5).seed


def test_a_folder_without_a_note_has_no_canaries(tmp_path):
    assert read_canaries(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"seed": 1}', '{"seed": 1, "count": "many", "repeats": [1]}', '{"count": 1, "repeats": [1]}'],
)
def test_a_damaged_note_is_told_of(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SsdError, match=r"canaries.*cannot be read"):
        read_canaries(tmp_path)


def test_the_note_tells_the_form_so_that_later_versions_can_read_it(tmp_path):
    keep_canaries(tmp_path, 3)
    note = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(note | {"form": "PIN {}", "digits": 2, "repeats": [3]}))
    canaries = read_canaries(tmp_path)
    assert canaries is not None
    assert canaries.times() == [3, 3, 3]
    assert all(len(text) == len("PIN 1 2") for text in canaries.texts())
