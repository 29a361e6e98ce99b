"""`ssd train-small` as it is typed: answers, signals, replacing and going on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssdcli.cli import app, console
from ssdcli.errors import Interrupted
from ssdcli.registry.store import Registry
from ssdcli.training.unfinished import begin, saved_settings
from tests.tiny import add_tiny
from tests.trainings import run, tiny_settings, write_text

SHAPE = ["--hidden", "32", "--layers", "1", "--context", "64", "--batch-tokens", "128"]
CORE = [*SHAPE, "--for", "none", "--block-size", "8", "--vocabulary", "300", "--name", "tiny"]


@pytest.fixture(autouse=True)
def _console():
    yield
    console.configure(quiet=False, debug=False)


@pytest.fixture
def text(tmp_path) -> str:
    return write_text(tmp_path / "notes.txt")


@pytest.fixture
def home():
    return Registry().home


def wait_for(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(text, home, capsys):
    command = [sys.executable, "-m", "ssdcli", "train-small", text, *CORE, "--steps", "100000"]
    environment = os.environ | {"SSD_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    with process:
        wait_for(lambda: list((home / "training").glob("tiny/checkpoint-*")) or process.poll() is not None)
        assert app.main(["train-small", text, *CORE]) == 1
        assert "being trained by another process" in capsys.readouterr().err
        process.send_signal(signal.SIGINT)
        answer, said = process.communicate()
    assert (process.returncode, answer) == (130, "")
    assert said.startswith("ssd: the training of 'tiny' was stopped")
    assert said.count("\n") == 1
    command = said.partition("'ssd ")[2].partition("'.")[0].split()
    (checkpoint,) = (home / "training" / "tiny").glob("checkpoint-*")
    steps = int(checkpoint.name.partition("-")[2])
    assert app.main(["train-small", text, *CORE]) == 2
    assert "Pass --resume to continue it" in capsys.readouterr().err
    assert app.main([*command, "--steps", str(steps + 2), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == steps + 2
    assert saved_settings(Registry(), "tiny") is None


def test_the_answer_as_sentences(text, capsys):
    add_tiny("big")
    arguments = ["train-small", text, *SHAPE, "--for", "big", "--name", "notes", "--steps", "2"]
    assert app.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""  # no terminal, no progress
    assert out.startswith("notes: 2 steps in ")
    assert re.search(r"^NELBO on held-out text, bits per byte: core \d\.\d{3}, small \d", out, re.MULTILINE)
    assert "measured on 1 document, so without confidence intervals" in out
    assert "gain of" not in out  # which takes another document that chooses the weight
    assert "Now try" not in out  # a hint is for a person who watches


def test_the_answer_as_json_and_data_from_standard_input(text, run_ssd):
    add_tiny("big")
    arguments = ["train-small", "-", *SHAPE, "--for", "big", "--name", "notes", "--steps", "2", "--json"]
    done = run_ssd(*arguments, stdin=Path(text).read_text(encoding="utf-8"))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    losses = ["weight", "bits_per_byte", "margins", "gain", "measure", "documents"]
    training = ["steps", "kept", "seconds"]
    assert list(answer) == ["name", "core", "size", "parameters", *losses, *training, "read"]
    assert (answer["read"]["files"], answer["read"]["skipped"], answer["read"]["replaced"]) == (1, {}, {})
    assert (answer["name"], answer["core"], answer["size"], answer["steps"]) == ("notes", "big", None, 2)
    assert set(answer["bits_per_byte"]) == {"core", "small", "ensemble"}
    assert answer["weight"] == Registry().find("notes").manifest.weight
    assert (answer["documents"], answer["measure"]) == (1, "NELBO")
    assert answer["gain"] is answer["margins"]["core"] is None  # a single document has neither


def test_intervals_are_told_where_there_are_several_documents(tmp_path, capsys):
    add_tiny("big")
    for number in range(24):
        (tmp_path / f"{number}.txt").write_text(f"note {number}\n" + "the boiler is cold and the stairs are dark " * 4)
    arguments = ["train-small", str(tmp_path), *SHAPE, "--for", "big", "--name", "notes", "--steps", "2"]
    assert app.main([*arguments, "--heldout", "0.3"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"bits per byte: core \d\.\d{3} ± \d\.\d{3}, small \d\.\d{3} ± ", out)
    assert "gain of the ensemble over its best member, at weights that other documents chose: " in out
    assert re.search(r"other documents chose: [+-]?\d\.\d{3} ± \d\.\d{3}$", out, re.MULTILINE)
    documents = len(list(tmp_path.glob("*.txt")))
    (count,) = re.findall(r"intervals are 95% confidence intervals over (\d+) documents", out)
    assert 1 < int(count) < documents


def test_overwrite_replaces_a_model(text):
    add_tiny("tiny")
    assert app.main(["train-small", text, *CORE, "--steps", "1"]) == 2
    assert app.main(["train-small", text, *CORE, "--steps", "1", "--overwrite"]) == 0
    assert Registry().find("tiny").manifest.data is not None


def test_a_new_start_with_overwrite_forgets_the_interrupted_training(text, home, capsys):
    with pytest.raises(Interrupted):
        run(tiny_settings(text), home, stop_after=2)
    assert app.main(["train-small", text, *CORE, "--steps", "1", "--overwrite", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1


def test_a_budget_given_as_a_flag_wins_over_a_recipe_s(text, tmp_path, capsys):
    (tmp_path / "mine.toml").write_text("minutes = 60\nseed = 5\n")
    arguments = ["train-small", text, *CORE, "--steps", "1", "--recipe", str(tmp_path / "mine.toml"), "--json"]
    assert app.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert "seed = 5" in (Registry().models / "tiny" / "recipe.toml").read_text()


def test_a_start_that_was_never_saved_is_no_obstacle(text, home):
    begin(Registry(), tiny_settings(text), overwrite=False)
    folder = home / "training" / "tiny"
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    begin(Registry(), tiny_settings(text), overwrite=False)
    assert not folder.exists()
