from __future__ import annotations

import json

import pytest

from ssdcli.cli.app import main
from ssdcli.registry.store import Registry
from tests.tiny import add_tiny


@pytest.fixture
def folder(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(30):
        (notes / f"{number:02}.txt").write_text(f"note {number}: the boiler is cold and the stairs are dark\n")
    (notes / "again.txt").write_text("note 3: the boiler is cold and the stairs are dark")
    (notes / "talk.jsonl").write_text(json.dumps({"prompt": "Why?", "response": "So."}))
    (notes / "old.txt").write_bytes("déjà vu, señor".encode("cp1252"))
    (notes / "yarn.lock").write_text("x")
    (notes / "key.txt").write_text("password: kiln4711x\n")
    return notes


def test_a_dry_run_shows_what_would_be_read_and_trains_nothing(folder, capsys):
    add_tiny("big")
    assert main(["train-small", str(folder), "--for", "big", "--dry-run"]) == 0
    told = capsys.readouterr().out
    for line in (
        "read 32 documents and 1 conversation (",
        "skipped 1 file: lock file (first: ",
        "skipped 1 line: what looks like a credential (first: ",
        "skipped 1 document: duplicate (first: ",
        "read 1 file as windows-1252 (first: ",
        " tokens of big), and ",
        "--- sample 10 of 10: ",
    ):
        assert line in told
    assert "kiln4711x" not in told
    assert [entry.name for entry in Registry().entries() if not entry.bundled] == ["big"]
    assert not (Registry().home / "training").exists()


def test_a_sample_says_which_answers_are_not_learned(tmp_path, capsys):
    add_tiny("big")
    asked, good = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    row = {"messages": [asked, good | {"content": "Dunno.", "weight": 0}, asked, good]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(row))
    assert main(["train-small", str(tmp_path / "talk.jsonl"), "--for", "big", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "[assistant, not learned] Dunno.\n" in told
    assert "[assistant] So.\n" in told
    assert main(["train-small", str(tmp_path / "talk.jsonl"), "--for", "big", "--dry-run", "--json"]) == 0
    (sample,) = json.loads(capsys.readouterr().out)["samples"]
    turns = [(turn["role"], turn["content"], turn["learned"]) for turn in sample["turns"]]
    assert turns == [
        ("user", "Why?", False),
        ("assistant", "Dunno.", False),
        ("user", "Why?", False),
        ("assistant", "So.", True),
    ]


def test_a_dry_run_as_json(folder, capsys):
    add_tiny("big")
    assert main(["train-small", str(folder), "--for", "big", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["core"] == "big"
    assert sum(told["documents"].values()) == 32
    assert told["tokens"]["train"] > told["tokens"]["heldout"] > 0
    assert told["read"]["skipped"] == {"lock file": 1, "what looks like a credential": 1, "duplicate": 1}
    assert len(told["samples"]) == 10
    assert main(["train-small", str(folder), "--for", "none", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] is None


def test_a_dry_run_needs_text(tmp_path, capsys):
    assert main(["train-small", str(tmp_path / "gone"), "--dry-run"]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
