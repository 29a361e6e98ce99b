"""A memory on disk: what is read is what was written, or an error says how to build it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssdcli.errors import SsdError
from ssdcli.models.memory.memory_files import Memory, Origin, load_memory, remember, save_memory, write_memory
from ssdcli.registry.archive import MEMORY_FILES, RECALL

TOKENS, ORDER, TABLE = MEMORY_FILES
TEXTS = [[1, 2, 3, 4, 5], [], [3, 4, 6]]
ORIGINS = [Origin("a.md"), Origin("empty.md"), Origin("mail.jsonl:17", 4)]
V = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_memory(tmp_path, remember(TEXTS, ORIGINS), "letters")
    return tmp_path


def test_what_is_loaded_is_what_was_saved(folder: Path) -> None:
    made, read = remember(TEXTS, ORIGINS), load_memory(folder, "notes", V, "letters")
    assert read.index.tokens.tolist() == made.index.tokens.tolist()
    assert read.index.order.tolist() == made.index.order.tolist()
    assert read.origins == made.origins == (ORIGINS[0], ORIGINS[2])  # an empty text is no text
    assert read.size == {"texts": 2, "tokens": 8}


@pytest.mark.parametrize(("texts", "origins"), [(TEXTS, ORIGINS), ([], []), ([[]], [Origin("empty.md")])])
def test_what_is_written_text_by_text_is_what_is_saved_as_a_whole(
    texts: list[list[int]], origins: list[Origin], tmp_path: Path
) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    save_memory(tmp_path / "whole", remember(texts, origins), "letters")
    memory = write_memory(tmp_path / "parts", [np.array(text, np.uint16) for text in texts], origins, "letters")
    for file in MEMORY_FILES:
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert memory.size == load_memory(tmp_path / "parts", "notes", V, "letters").size


def test_an_empty_memory_is_a_memory(tmp_path: Path) -> None:
    save_memory(tmp_path, remember([], []), "letters")
    assert load_memory(tmp_path, "notes", V, "letters").size == {"texts": 0, "tokens": 0}


def _truncated(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-5])


def _array(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda folder: np.save(folder / file, change(np.load(folder / file)))


def _table(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        table = json.loads((folder / TABLE).read_text())
        (folder / TABLE).write_text(json.dumps(table | changes))

    return change


def _set(place: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / TOKENS).unlink(), "cannot be read"),
        (_truncated(TOKENS), "cannot be read"),
        (_truncated(ORDER), "cannot be read"),
        (_truncated(TABLE), "cannot be read"),
        (lambda folder: (folder / ORDER).write_bytes(b""), "cannot be read"),
        (_array(ORDER, lambda order: order.astype(np.int64)), "holds no list of ids"),
        (_array(ORDER, lambda order: order[:-1]), "do not fit each other"),
        (_array(TOKENS, lambda tokens: tokens[:0]), "do not fit each other"),
        (_array(ORDER, _set(0, 0)), "points outside its text"),
        (_array(ORDER, _set(0, 10**6)), "points outside its text"),
        (_array(TOKENS, _set(1, V)), "tokens of another tokenizer"),
        (_array(TOKENS, _set(1, -7)), "tokens of another tokenizer"),
        (_array(TOKENS, _set(1, -1)), "do not fit each other"),
        (_table(version=2), "another version of ssd"),
        (_table(depth=0), "another version of ssd"),
        (_table(texts=[]), "do not fit each other"),
        (_table(texts=[{"file": "a.md"}] * 2), "cannot be read"),
        (lambda folder: (folder / TABLE).write_text("[]"), "cannot be read"),
    ],
)
def test_a_damaged_memory_says_how_to_build_it_again(
    folder: Path, damage: Callable[[Path], object], problem: str
) -> None:
    damage(folder)
    with pytest.raises(SsdError, match=problem) as caught:
        load_memory(folder, "notes", V, "letters")
    assert "'ssd train-small DATA --update notes'" in str(caught.value)


def test_a_memory_of_another_vocabulary_is_refused(folder: Path) -> None:
    with pytest.raises(SsdError, match="tokens of another tokenizer"):
        load_memory(folder, "notes", 6, "letters")


def test_a_place_is_named_by_its_file_and_line() -> None:
    held = remember([[9, 1, 9, 2, 3], [5, 9, 6]], [Origin("a.md"), Origin("mail.jsonl:17", 4)])
    lines = held.index.tokens.tolist()

    def decode(ids: list[int]) -> str:
        return "".join("\n" if id == 9 else "x" for id in ids)

    assert held.where(lines.index(1), decode) == "a.md:2"
    assert held.where(lines.index(3), decode) == "a.md:3"
    assert held.where(lines.index(5), decode) == "mail.jsonl:17:4"
    assert held.where(lines.index(6), decode) == "mail.jsonl:17:5"


def test_the_longest_shared_context_is_found_at_its_last_place() -> None:
    held = remember([[1, 2, 3], [4, 2, 3], [1, 2, 3], [2, 5]], [Origin("a.md")] * 4)
    length, place = held.find([7, 1, 2], 3)
    assert length == 2
    assert held.index.text_of(place) == 2
    assert held.find([7, 1, 2], 6) == (0, 0)


def test_a_memory_without_some_texts_has_neither_them_nor_their_copies() -> None:
    letter = list(range(30))
    held = remember([letter, [7] * 20, letter[:25]], [Origin(name) for name in ("a.md", "b.md", "copy.md")])
    kept: Memory = held.without([letter])
    assert kept.origins == (Origin("b.md"),)
    assert [text.tolist() for text in kept.index.texts()] == [[7] * 20]


def test_a_memory_of_another_tokenizer_is_refused_even_if_its_ids_would_do(folder):
    with pytest.raises(SsdError, match="tokens of another tokenizer"):
        load_memory(folder, "notes", V, "words")


@pytest.mark.parametrize("damage", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "], ids=["empty", "text", "hollow"])
def test_a_damaged_recall_is_told_of(tmp_path: Path, damage: bytes) -> None:
    save_memory(tmp_path, remember([[1, 2, 3]], [Origin("notes.md")]), "fingerprint")
    (tmp_path / RECALL).write_bytes(damage)
    with pytest.raises(SsdError, match="what its core made of it cannot be read") as error:
        load_memory(tmp_path, "notes", 10, "fingerprint")
    assert RECALL in str(error.value.remedy)
