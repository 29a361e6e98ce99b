"""Memories are built from the text as it is: alone, beside a training, and again for a model whose text has changed."""

from __future__ import annotations

import hashlib
import random
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.errors import SsdError, UsageError
from ssdcli.generation.selection import choose
from ssdcli.models.memory.memory_files import Memory, Origin, load_memory
from ssdcli.registry.archive import MEMORY_FILES
from ssdcli.registry.store import Entry, Registry
from ssdcli.training.job import train_small
from ssdcli.training.remember import train_memory, update_memory
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import claimed
from tests.memories import CORE, NOTES, OF_SMALL, add_notes, write_notes
from tests.pulled import add_causal
from tests.tiny import add_family, add_tiny, tiny_tokenizer
from tests.trainings import SHAPE, tiny_settings, write_text


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder of notes, and a causal core to remember them for."""
    add_causal(CORE)
    return write_notes(tmp_path / "notes")


def settings(data: Path, **changes: object) -> TrainSettings:
    return replace(TrainSettings(data=(str(data),), core=CORE, name="old"), **changes)  # type: ignore[arg-type]


def held(name: str) -> Memory:
    entry = Registry().find(name)
    return load_memory(entry.folder, name, entry.manifest.vocabulary, entry.manifest.tokenizer)


def texts(name: str) -> set[str]:
    return {tiny_tokenizer().decode(text.tolist()).strip() for text in held(name).index.texts()}


def weights_of(entry: Entry) -> dict[str, str]:
    own = (path for path in entry.folder.iterdir() if path.name not in (*MEMORY_FILES, "ssd.json"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in own}


def test_a_memory_alone_holds_every_text_and_where_it_comes_from(notes: Path) -> None:
    found = train_memory(settings(notes))
    assert texts("old") == {note.strip() for note in NOTES}
    assert sorted(held("old").origins, key=lambda one: one.source) == [
        Origin(str(notes / "0.md")),
        Origin(str(notes / "1.md")),
    ]
    assert (found.learned, found.size) == (2, held("old").size)
    manifest = Registry().find("old").manifest
    assert (manifest.kind, manifest.core, manifest.memory) == ("memory", CORE, found.size)
    assert manifest.joint_gates == (PUBLIC_GATE,)
    assert Registry().verify("old") == []
    assert not list((Registry().home / "training").iterdir())


def test_what_a_memory_consists_of_is_closed_to_others(notes: Path) -> None:
    train_memory(settings(notes))
    update_memory("old", [str(notes)])
    folder = Registry().find("old").folder
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(MEMORY_FILES) < set(modes)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_an_update_forgets_deleted_notes_and_counts_new_ones(notes: Path) -> None:
    add_notes()
    (notes / "1.md").unlink()
    (notes / "2.md").write_text("A new note about the garden.\n")
    found = update_memory("notes", [str(notes)])
    assert (found.learned, found.forgotten, found.size["texts"]) == (1, 1, 2)
    assert texts("notes") == {NOTES[0].strip(), "A new note about the garden."}
    assert Registry().find("notes").manifest.memory == found.size
    assert update_memory("notes", [str(notes)]).learned == 0


def test_an_update_keeps_the_weights_byte_for_byte_and_what_was_measured_without_the_memory(notes: Path) -> None:
    measured = {f"{who} bits per byte": 1.5 for who in ("core", "small", "memory", "ensemble", "gain")}
    add_notes(metrics={**measured, "ensemble bits per byte margin": 0.1, "held-out documents": 3})
    before = Registry().find("notes")
    kept = weights_of(before)
    (notes / "0.md").write_text("Something else.\n")
    update_memory("notes", [str(notes)])
    after = Registry().find("notes")
    assert weights_of(after) == kept
    left = {"core bits per byte": 1.5, "small bits per byte": 1.5, "held-out documents": 3}
    assert after.manifest == replace(
        before.manifest, memory=after.manifest.memory, files=after.manifest.files, metrics=left
    )
    update_memory("notes", [str(notes)])
    assert Registry().find("notes").manifest.metrics == left
    assert Registry().verify("notes") == []


def test_a_model_without_a_memory_gets_one(notes: Path) -> None:
    add_tiny("plain", 2, kind="small", core=CORE)
    found = update_memory("plain", [str(notes)])
    assert Registry().find("plain").manifest.gates == ()  # of a core that is not causal, or was not measured
    assert (found.learned, found.forgotten) == (2, 0)
    assert texts("plain") == {note.strip() for note in NOTES}


def test_a_model_that_was_trained_without_a_memory_gets_gates_with_it(notes: Path) -> None:
    add_notes("bare", gates=(OF_SMALL,))
    update_memory("bare", [str(notes)])
    three, of_small, public = Registry().find("bare").manifest.joint_gates
    assert (three.members, of_small, public) == (("core", "small", "memory"), OF_SMALL, PUBLIC_GATE)
    assert "bare:memory" in [member.name for member in choose(None, ["bare"]).members]


def test_a_memory_that_cannot_be_read_is_built_again(notes: Path) -> None:
    add_notes()
    (Registry().find("notes").folder / MEMORY_FILES[0]).write_bytes(b"damaged")
    found = update_memory("notes", [str(notes)])
    assert (found.learned, found.forgotten) == (2, 0)
    assert texts("notes") == {note.strip() for note in NOTES}


def test_two_updates_of_one_model_exclude_each_other(notes: Path) -> None:
    add_notes()
    before = texts("notes")
    with claimed(Registry(), "notes.memory"), pytest.raises(SsdError) as caught:
        update_memory("notes", [str(notes)])
    assert str(caught.value) == "the memory of 'notes' is being built by another process. Wait for it, or stop it."
    assert texts("notes") == before
    update_memory("notes", [str(notes)])


@pytest.mark.parametrize("kind", ["new", "update"])
def test_a_text_without_a_word_is_refused_and_leaves_nothing_behind(notes: Path, tmp_path: Path, kind: str) -> None:
    add_notes()
    (tmp_path / "empty.md").write_text("")
    before = texts("notes")
    attempt = {
        "new": lambda: train_memory(settings(tmp_path / "empty.md")),
        "update": lambda: update_memory("notes", [str(tmp_path / "empty.md")]),
    }[kind]
    with pytest.raises(SsdError, match="there is no text: "):
        attempt()
    assert texts("notes") == before
    assert [entry.name for entry in Registry().entries() if not entry.bundled] == [CORE, "notes"]
    assert not [path for path in (Registry().home / "training").glob("**/*") if path.is_file()]


def test_an_unfinished_training_of_the_same_name_is_left_alone(notes: Path) -> None:
    checkpoint = Registry().workspace("old") / "checkpoint-3"
    checkpoint.mkdir()
    train_memory(settings(notes))
    assert checkpoint.is_dir()


@pytest.mark.parametrize("process", ["simplex", "uniform"])
def test_only_the_masked_process_has_memories(tmp_path: Path, process: str) -> None:
    add_family(process)
    data = write_notes(tmp_path / "notes")
    for attempt in (
        lambda: train_memory(settings(data, core="big")),
        lambda: update_memory("notes", [str(data)]),
    ):
        with pytest.raises(UsageError, match=f"takes part in the masked process alone, .* has the {process} process"):
            attempt()


@pytest.mark.parametrize("name", [CORE, "starter"])
def test_a_core_has_no_memory_to_update(notes: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' has no memory to update"):
        update_memory(name, [str(notes)])


def test_a_taken_name_is_refused_unless_it_may_be_overwritten(notes: Path) -> None:
    train_memory(settings(notes))
    with pytest.raises(UsageError, match="exists already"):
        train_memory(settings(notes))
    (notes / "1.md").unlink()
    train_memory(settings(notes), overwrite=True)
    assert texts("old") == {NOTES[0].strip()}


def test_a_long_document_is_cut_and_its_lines_are_counted_on(notes: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.md"
    data.write_text("\n".join(f"line {number} of the boiler" for number in range(1, 30001)))
    train_memory(settings(data))
    memory = held("old")
    size = len(memory.index.tokens)
    for place in (100, size // 2, size - 3):
        start = max(0, place - 30)
        around = tiny_tokenizer().decode([id for id in memory.index.tokens[start : place + 30].tolist() if id >= 0])
        source, _, line = memory.where(place, tiny_tokenizer().decode).rpartition(":")
        assert source == str(data)
        assert f"line {line} of" in around


def test_lines_of_a_document_whose_end_is_held_out_are_its_own(tmp_path: Path) -> None:
    add_causal(CORE)
    data = tmp_path / "mine.txt"
    data.write_text("".join(f"line {number} of the boiler\n" for number in range(1, 201)))
    train_small(small(str(data)))
    for text, origin in zip(held("notes").index.texts(), held("notes").origins, strict=True):
        assert tiny_tokenizer().decode(text.tolist()).startswith(f"line {origin.line} of")


def test_planted_canaries_are_not_remembered(tmp_path: Path) -> None:
    add_causal(CORE)
    train_small(small(write_text(tmp_path / "mine.txt"), canaries=2))
    assert not [text for text in texts("notes") if "My secret code" in text]
    assert texts("notes")


def small(data: str, **changes: object) -> TrainSettings:
    fields = {"name": "notes", "core": CORE, "block_size": None, "vocabulary": 8192, **SHAPE}
    return tiny_settings(data, **{**fields, **changes})


def test_a_training_beside_a_causal_core_remembers_its_text_and_fits_gates(tmp_path: Path) -> None:
    add_causal(CORE)
    draw = random.Random(0)  # of text in which no long run of tokens comes twice
    lines = [f"letter {draw.randrange(10**9)} says {draw.randrange(10**9)}\n" for _ in range(200)]
    (tmp_path / "mine.txt").write_text("".join(lines))
    trained = train_small(small(str(tmp_path / "mine.txt")))
    manifest = Registry().find("notes").manifest
    memory = held("notes")
    assert manifest.memory == memory.size
    assert memory.size["tokens"] >= trained.description.train.tokens  # held-out text is remembered as well
    assert [gate.members for gate in manifest.joint_gates] == [
        ("core", "small", "memory"),
        ("core", "small"),
        ("core", "memory"),
    ]
    assert {"core", "small", "memory", "ensemble"} == set(trained.description.quality.bits_per_byte)


def test_the_memory_of_a_text_that_repeats_itself_cannot_be_measured_and_has_the_public_gate(tmp_path: Path) -> None:
    add_causal(CORE)
    train_small(small(write_text(tmp_path / "mine.txt")))
    manifest = Registry().find("notes").manifest
    assert manifest.memory == held("notes").size
    three, of_small, public = manifest.joint_gates
    assert (three.members, of_small.members, public) == (("core", "small", "memory"), ("core", "small"), PUBLIC_GATE)
    assert three.is_default
    assert [one.role for one in choose(None, ["notes"]).members] == ["core", "small", "memory"]


def test_a_training_remembers_nothing_where_it_is_told_so(tmp_path: Path) -> None:
    add_causal(CORE)
    train_small(small(write_text(tmp_path / "mine.txt"), memory=False))
    entry = Registry().find("notes")
    assert entry.manifest.memory is None
    assert not [file for file in MEMORY_FILES if (entry.folder / file).exists()]
    assert [gate.members for gate in entry.manifest.joint_gates] == [("core", "small")]
