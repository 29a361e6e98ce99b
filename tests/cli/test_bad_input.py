"""What a training is given and cannot use: one sentence, a code, and nothing lost."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdcli.cli import app, console
from ssdcli.registry.store import Registry
from tests.tiny import add_tiny
from tests.trainings import write_text

SHAPE = ["--hidden", "32", "--layers", "1", "--context", "64", "--batch-tokens", "128", "--steps", "2"]
TINY = [*SHAPE, "--name", "notes", "--for", "big"]


@pytest.fixture(autouse=True)
def _core():
    add_tiny("big")
    yield
    console.configure(quiet=False, debug=False)


@pytest.fixture
def text(tmp_path) -> str:
    return write_text(tmp_path / "text.txt")


@pytest.fixture
def train(capsys):
    """Runs `ssd train-small` in this process; returns code, answer, warnings and the error."""

    def run(*arguments, keeps_workspace: bool = False) -> SimpleNamespace:
        before = snapshot()
        code = app.main(["train-small", *map(str, arguments)])
        answer, said = capsys.readouterr()
        lines = said.splitlines()
        warnings = [line for line in lines if line.startswith("ssd: warning: ")]
        errors = [line for line in lines if line not in warnings]
        if code:
            assert answer == ""
            assert len(errors) == 1
            assert errors[0].startswith("ssd: ")
            assert "unexpected" not in errors[0]
            assert snapshot() == before
            assert keeps_workspace == bool(list((Registry().home / "training").glob("[!.]*")))
        else:
            assert errors == []
        return SimpleNamespace(code=code, answer=answer, warnings=warnings, error="".join(errors))

    return run


def snapshot() -> dict[Path, bytes]:
    """All files of the registry's models."""
    return {path: path.read_bytes() for path in Registry().models.rglob("*") if path.is_file()}


def test_data_is_needed(train):
    done = train(*TINY)
    assert (done.code, "no text was given" in done.error.lower()) == (2, True)


def test_a_name_is_needed(train, text):
    assert train(text, *SHAPE, "--for", "big").code == 2


def test_a_path_that_does_not_exist_is_named(train, text):
    done = train(text, "absent.txt", *TINY)
    assert done.code == 2
    assert "'absent.txt'" in done.error


def test_binaries_alone_are_no_text(train, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.bin").write_bytes(bytes(range(256)) * 9)
    done = train(folder, *TINY)
    assert done.code == 1
    assert "no text to train on" in done.error
    assert "skipped 3 files: binary" in done.error


def test_three_words_are_too_little(train, tmp_path):
    (tmp_path / "a.txt").write_text("three short words")
    done = train(tmp_path / "a.txt", *TINY)
    assert done.code == 1
    assert "too little text: found 3 words" in done.error


def test_an_empty_folder_and_an_empty_file_are_no_text(train, tmp_path):
    (tmp_path / "empty").mkdir()
    done = train(tmp_path / "empty", *TINY)
    assert (done.code, "no text to train on" in done.error) == (1, True)
    (tmp_path / "empty" / "empty.txt").touch()
    done = train(tmp_path / "empty", *TINY)
    assert (done.code, "skipped 1 file: empty" in done.error) == (1, True)


def test_a_line_of_twenty_megabytes_is_left_out_and_counted(train, tmp_path, text):
    with gzip.open(tmp_path / "mail.jsonl.gz", "wt", compresslevel=1) as file:
        file.write(json.dumps({"text": "short"}) + "\n" + json.dumps({"text": "a " * 10_000_000}) + "\n")
    done = train(text, tmp_path / "mail.jsonl.gz", *TINY)
    assert done.code == 0
    assert any("line longer than 16 MiB" in line and "mail.jsonl.gz:2" in line for line in done.warnings)


def test_invalid_utf8_and_windows_line_ends_are_read(train, tmp_path, text):
    content = Path(text).read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "windows.txt").write_bytes(content.replace(b"boiler", b"b\xff\xfeiler", 1))
    assert train(tmp_path / "windows.txt", *TINY).code == 0
    assert "replaced 2 invalid characters" in (Registry().models / "notes" / "README.md").read_text()


def test_broken_rows_are_left_out_and_counted(train, tmp_path):
    rows = [json.dumps({"text": f"letter {number} about the cold boiler and the stairs"}) for number in range(40)]
    rows[20:20] = ['{"text": "cut off in the mid', json.dumps({"body": "no text"}), "[1, 2]"]
    (tmp_path / "mail.jsonl").write_text("\n".join(rows))
    done = train(tmp_path / "mail.jsonl", *TINY)
    assert done.code == 0
    assert len(done.warnings) == 2
    assert "skipped 2 lines: broken JSON, or not an object" in done.warnings[0]
    assert "mail.jsonl:21" in done.warnings[0]
    assert "skipped 1 row: no 'text'" in done.warnings[1]
    assert "fields: body" in done.warnings[1]


def test_rows_without_text_alone_are_no_text(train, tmp_path):
    (tmp_path / "mail.jsonl").write_text(json.dumps({"body": "no text"}) + "\n")
    done = train(tmp_path / "mail.jsonl", *TINY)
    assert (done.code, "fields: body" in done.error) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--for", "bog"], 3, "no model named 'bog'. Did you mean 'big'?"),
        (["--minutes", "0"], 2, "--minutes 0 must be above 0"),
        (["--steps", "0"], 2, "--steps 0 must be at least 1"),
        (["--steps", "many"], 2, "--steps many must be a whole number"),
        (["--minutes", "5", "--steps", "5"], 2, "both --minutes and --steps"),
        (["--size", "huge"], 2, "--size huge must be one of nano, micro, mini, small, base"),
        (["--learning-rate", "nan"], 2, "--learning-rate"),
        (["--heldout", "1"], 2, "--heldout 1 must be above 0 and below 1"),
        (["--hidden", "33"], 2, "--hidden 33 must be a multiple of 32"),
        (["--block-size", "4"], 2, "--block-size 4 was given, but the core 'big' has blocks of 8"),
        (["--for", "none", "--process", "gaussian"], 2, "--process gaussian must be one of simplex, masked, uniform"),
        (["--name", "../notes"], 2, "'../notes' is not a model name"),
        (["--name", "a/b"], 2, "it looks like a path"),
        (["--name", ".."], 2, "'..' is not a model name"),
        (["--name", "Notes"], 2, "Did you mean 'notes'?"),
        (["--name", "big"], 2, "a model named 'big' exists already. Pass --overwrite"),
        (["--resume"], 2, "there is no unfinished training of 'notes'"),
        (["--recipe", "absent"], 2, "no recipe named 'absent'"),
        (["--bogus"], 2, "no such option"),
    ],
)
def test_flags_that_cannot_be_right_are_refused(train, text, arguments, code, said):
    base = ["--for", "big", "--name", "notes"]
    done = train(text, *[word for word in base if "--name" not in arguments or word not in base[2:]], *arguments)
    assert done.code == code
    assert said.lower() in done.error.lower()


def test_resume_alone_does_not_say_what(train):
    assert "Pass --name" in train("--resume").error


def test_a_wrong_key_of_a_recipe_is_answered_with_the_nearest(train, text, tmp_path):
    (tmp_path / "mine.toml").write_text("lerning-rate = 0.1\n")
    done = train(text, *TINY, "--recipe", tmp_path / "mine.toml")
    assert done.code == 2
    assert "Did you mean 'learning-rate'?" in done.error


def test_a_full_disk_is_one_sentence(train, text, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssdcli.training.plan.Plan.save", full)
    done = train(text, *TINY, keeps_workspace=True)
    assert done.code == 1
    assert "No space left on device. Free some space" in done.error


def test_standard_input_is_data_but_not_for_a_core(train, text, monkeypatch):
    content = Path(text).read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert train("-", *SHAPE, "--name", "core", "--for", "none", "--vocabulary", "300").code == 2
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"")))
    assert "no text to train on" in train("-", *TINY).error
