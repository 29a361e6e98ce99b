from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ssdcli.data.documents import Document, ReadReport
from ssdcli.data.marking import CLOSING, GIVEN, WRITTEN, Marker
from ssdcli.data.readers.files import read_documents
from ssdcli.data.split import SplitSettings, split_documents
from ssdcli.data.token_store import StoreSettings, TokenStore, build_store
from ssdcli.errors import SsdError
from ssdcli.text.chat_template import Chat
from ssdcli.text.messages import Message
from tests.disk import NEEDS_DESCRIPTORS, Disk

EOT = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and some more words"], trainer)
    return tokenizer


def notes(count: int) -> list[Document]:
    return [Document(f"note {i} é: {'word ' * (i % 7)}about {i * i}\n", f"{i}.txt") for i in range(count)]


def build(documents, tokenizer: Tokenizer, folder: Path, seed: int = 0, report=None) -> TokenStore:
    settings = StoreSettings(tokenizer.token_to_id(EOT), SplitSettings(seed))
    return build_store(documents, tokenizer, folder, settings, report or ReadReport())


def documents_of(tokens: np.ndarray, bounds: list[tuple[int, int, int]], tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(tokens[start:stop].tolist()) for start, stop, _ in bounds]


def test_a_store_holds_every_document_of_the_split_between_separators(tokenizer, tmp_path):
    store = build(notes(300), tokenizer, tmp_path / "store")
    split = list(split_documents(notes(300), SplitSettings(), ReadReport()))
    for tokens, bounds, side, is_heldout in (
        (store.train, store.train_documents, store.info.train, False),
        (store.heldout, store.heldout_documents, store.info.heldout, True),
    ):
        expected = [document.text for document, held in split if held == is_heldout]
        assert documents_of(tokens, bounds, tokenizer) == expected
        assert [size for _, _, size in bounds] == [len(text.encode()) for text in expected]
        separators = np.flatnonzero(tokens == tokenizer.token_to_id(EOT)).tolist()
        assert separators == [0, *(stop for _, stop, _ in bounds)]
        assert len(tokens) == side.tokens == separators[-1] + 1
        assert side.documents == len(expected)
        assert side.bytes == sum(len(text.encode()) for text in expected)
        assert side.characters == sum(map(len, expected))


def test_what_the_store_says_of_itself(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("words of a text\n" * 500)
    (tmp_path / "b.bin").write_bytes(b"\0")
    report = ReadReport()
    documents = read_documents([str(tmp_path)], report)
    info = build(documents, tokenizer, tmp_path / ".store", 7, report).info
    assert (info.dtype, info.eot_id, info.seed) == ("uint16", tokenizer.token_to_id(EOT), 7)
    assert info.vocabulary == tokenizer.get_vocab_size()
    assert info.read["skipped"]["binary"] == 1
    assert info.report == report.lines()
    assert len(info.fingerprint) == 64
    assert info == TokenStore.open(tmp_path / ".store").info


def test_same_texts_same_bytes_and_same_sides_in_any_order(tokenizer, tmp_path):
    first = build(notes(100), tokenizer, tmp_path / "1")
    again = build(notes(100), tokenizer, tmp_path / "2")
    turned = build(notes(100)[::-1], tokenizer, tmp_path / "3")
    for name in ("train.bin", "heldout.bin", "train_starts.npy", "heldout_bytes.npy", "store.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert turned.info.fingerprint == first.info.fingerprint == again.info.fingerprint
    assert sorted(turned.heldout) == sorted(first.heldout)


@NEEDS_DESCRIPTORS
def test_all_of_a_store_is_synced_before_it_gets_its_names_the_description_last(tokenizer, tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    build(notes(50), tokenizer, tmp_path / "store")
    named = [path for event, path in disk.log if event == "rename"]
    assert named[-1].name == "store.json"
    assert set(named) == set((tmp_path / "store").iterdir())
    assert all(map(disk.holds, named))


def test_plain_texts_are_all_written_and_separators_close_them(tokenizer, tmp_path):
    store = build(notes(100), tokenizer, tmp_path)
    for tokens, marks in ((store.train, store.train_marks), (store.heldout, store.heldout_marks)):
        assert marks.dtype == np.uint8
        assert marks.tolist() == np.where(tokens == tokenizer.token_to_id(EOT), CLOSING, WRITTEN).tolist()
    assert store.info.train.conversations == store.info.heldout.conversations == 0


def test_conversations_lie_in_the_store_as_they_are_marked(tokenizer, tmp_path):
    talks = [
        Document.conversation((Message("user", f"What is {i}?"), Message("assistant", f"It is {i}.")), str(i))
        for i in range(100)
    ]
    store = build([*talks, *notes(50)], tokenizer, tmp_path)
    marker = Marker(Tokenizer.from_str(tokenizer.to_str()), store.info.eot_id, None, ())
    expected = {tuple(zip(found.ids, found.marks, strict=True)) for found in marker.mark(talks)}
    columns = list(zip(store.train.tolist(), store.train_marks.tolist(), strict=True))
    found = [tuple(columns[start:stop]) for start, stop, _ in store.train_documents]
    inside = [document for document in found if any(mark == GIVEN for _, mark in document)]
    assert set(inside) <= expected
    assert len(inside) == store.info.train.conversations > 80
    assert store.info.heldout.conversations == 100 - len(inside)
    assert len(found) - len(inside) == store.info.train.documents - store.info.train.conversations


def test_a_conversation_that_a_template_does_not_take_is_counted(tokenizer, tmp_path):
    refusing = Chat("big", "{{ raise_exception('no') }}", {})
    report = ReadReport()
    talk = Document.conversation((Message("user", "What?"), Message("assistant", "It.")), "a.jsonl:1")
    settings = StoreSettings(tokenizer.token_to_id(EOT), chat=refusing)
    store = build_store([*notes(100), talk], tokenizer, tmp_path, settings, report)
    assert report.skipped == {"not a conversation for the core's chat template": 1}
    assert store.info.train.conversations == 0
    assert store.info.report[-1].endswith("(first: a.jsonl:1)")


def test_text_that_names_the_separator_does_not_become_one(tokenizer, tmp_path):
    documents = [Document(f"{i} before {EOT} after, and so on", "") for i in range(100)]
    store = build(documents, tokenizer, tmp_path)
    eot_id = tokenizer.token_to_id(EOT)
    assert (store.train == eot_id).sum() == store.info.train.documents + 1
    assert f"before {EOT} after" in tokenizer.decode(store.train.tolist())
    assert tokenizer.encode(EOT).ids == [eot_id]


def test_what_a_tokenizer_file_adds_cuts_or_pads_is_left_out(tokenizer, tmp_path):
    plain = build(notes(100), tokenizer, tmp_path / "plain")
    dressed = Tokenizer.from_str(tokenizer.to_str())
    dressed.enable_truncation(4)
    dressed.enable_padding(length=50)
    dressed.post_processor = processors.TemplateProcessing(
        single=f"{EOT} $A {EOT}", special_tokens=[(EOT, tokenizer.token_to_id(EOT))]
    )
    assert np.array_equal(build(notes(100), dressed, tmp_path / "dressed").train, plain.train)
    assert dressed.truncation is not None


def test_vocabularies_over_65536_take_four_bytes(tmp_path):
    words = {f"w{i}": i for i in range(70_000)}
    tokenizer = Tokenizer(models.WordLevel({**words, EOT: 70_000}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    store = build([Document(f"w{69_000 + i} w{i}", "") for i in range(100)], tokenizer, tmp_path)
    assert store.info.dtype == "uint32"
    assert store.train.dtype == np.uint32
    assert store.train.max() == 70_000
    assert 69_000 < store.heldout[1] < 70_000


def test_only_the_owner_can_read_a_store(tokenizer, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir(mode=0o755)
    build(notes(100), tokenizer, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        f"{side}{rest}": 0o600
        for side in ("train", "heldout")
        for rest in (".bin", "_marks.bin", "_starts.npy", "_bytes.npy", "_origins.json")
    } | {"store.json": 0o600, "trained-documents.txt": 0o600}


def failing(count: int):
    yield from notes(count)
    raise KeyboardInterrupt


def test_an_interrupted_build_leaves_no_store_and_no_tokens_behind(tokenizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(failing(1000), tokenizer, tmp_path / "store")
    assert not TokenStore.is_finished(tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    build(notes(1000), tokenizer, tmp_path / "store")
    assert TokenStore.is_finished(tmp_path / "store")


def test_an_interrupted_rebuild_does_not_pass_for_the_old_store(tokenizer, tmp_path):
    build(notes(100), tokenizer, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build(failing(1000), tokenizer, tmp_path)
    assert not TokenStore.is_finished(tmp_path)


def test_leftovers_of_a_killed_build_are_replaced(tokenizer, tmp_path):
    for name in ("train.bin.partial", "train.bin", "heldout_starts.npy.partial", "store.json.partial"):
        (tmp_path / name).write_bytes(b"left over")
    store = build(notes(100), tokenizer, tmp_path)
    assert store.info.train.tokens == len(store.train)
    assert not list(tmp_path.glob("*.partial"))
    assert (tmp_path / "train.bin").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["cut", "marks", "gone", "no info", "broken info", "other version", "list"])
def test_a_damaged_store_is_refused(tokenizer, tmp_path, damage):
    build(notes(100), tokenizer, tmp_path)
    info = tmp_path / "store.json"
    if damage == "cut":
        (tmp_path / "train.bin").write_bytes((tmp_path / "train.bin").read_bytes()[:-2])
    elif damage == "marks":
        (tmp_path / "heldout_marks.bin").unlink()
    elif damage == "gone":
        (tmp_path / "heldout.bin").unlink()
    elif damage == "no info":
        info.unlink()
    elif damage == "broken info":
        info.write_text(info.read_text()[:-9])
    elif damage == "list":
        info.write_text("[]")
    else:
        info.write_text(json.dumps({**json.loads(info.read_text()), "version": 99}))
    assert not TokenStore.is_finished(tmp_path)
    with pytest.raises(SsdError, match="no finished token store"):
        TokenStore.open(tmp_path)


def test_no_usable_text_is_refused_with_what_was_skipped(tokenizer, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "b.txt").write_text("  \n")
    report = ReadReport()
    with pytest.raises(SsdError) as caught:
        build(read_documents([str(tmp_path)], report), tokenizer, tmp_path / ".store", report=report)
    assert "read 0 documents" in caught.value.problem
    assert "skipped 1 file: binary" in caught.value.problem
    assert "skipped 1 file: empty" in caught.value.problem
    assert caught.value.remedy


def test_three_words_are_too_little(tokenizer, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("three little words")
    report = ReadReport()
    with pytest.raises(SsdError, match="too little text: found 3 words; training needs at least 64 tokens"):
        build(read_documents([str(path)], report), tokenizer, tmp_path / "store", report=report)
    assert not TokenStore.is_finished(tmp_path / "store")


def test_one_page_is_enough(tokenizer, tmp_path):
    store = build([Document("One sentence follows another here. " * 20, "a.txt")], tokenizer, tmp_path)
    assert len(store.train_documents) == len(store.heldout_documents) == 1


def test_a_separator_that_the_tokenizer_lacks_is_refused(tokenizer, tmp_path):
    with pytest.raises(SsdError, match="no token of id 5000"):
        build_store(notes(100), tokenizer, tmp_path, StoreSettings(5000), ReadReport())


def test_a_folder_that_cannot_be_written_is_named(tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SsdError, match="cannot be written"):
        build(notes(100), tokenizer, tmp_path / "file")


def test_memory_does_not_grow_with_the_text(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({"unknown": 0, EOT: 1}, unk_token="unknown"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def peak(megabytes: int) -> int:
        path = tmp_path / "big.txt"
        with path.open("w") as file:
            for line in range(megabytes * 10_000):
                file.write(f"{line:099}\n")
        report = ReadReport()
        tracemalloc.start()
        build(read_documents([str(path)], report), tokenizer, tmp_path / "store", report=report)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(12) < 1.5 * peak(3)


def test_reading_and_tokenising_load_neither_torch_nor_a_terminal():
    command = (
        "import sys, ssdcli.data.readers.files, ssdcli.data.token_store\n"
        "print([name for name in ('torch', 'typer', 'rich', 'pyarrow', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
