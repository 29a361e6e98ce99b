"""`ssd audit` as it is typed, and what an export says of it."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from ssdcli.cli import app, console
from ssdcli.data.canaries import FILE, keep_canaries
from ssdcli.evaluation.audit.verdict import ADVANTAGE, EXPOSURE, VERBATIM
from ssdcli.registry.manifest import read_manifest, write_manifest
from ssdcli.registry.store import Registry
from tests.tiny import add_tiny


@pytest.fixture
def ssd(capfd, monkeypatch, tmp_path):
    """Runs `ssd` in this process; returns the code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssdcli.evaluation.audit.audit._CANDIDATES", 63)

    def run(*arguments):
        return app.main(list(map(str, arguments))), *capfd.readouterr()

    yield run
    console.configure(quiet=False, debug=False)


@pytest.fixture
def _notes():
    """A model that remembers nothing of its two canaries."""
    add_tiny("notes", kind="small", core="starter")
    with Registry().stage("twin") as folder:
        shutil.copytree(Registry().find("notes").folder, folder, dirs_exist_ok=True)
        keep_canaries(folder, 2)
    Registry().remove("notes")
    Registry().rename("twin", "notes")


@pytest.mark.usefixtures("_notes")
def test_a_table_says_what_was_found_and_what_it_means(ssd):
    code, answer, said = ssd("audit", "notes", "--minutes", "0.0001")
    assert (code, said) == (0, "")
    header, once, twice, remark, *_, meaning = answer.splitlines()
    assert header.split() == ["MEASURE", "FOUND", "TO", "COMPARE"]
    assert once.startswith("exposure of canaries planted once")
    assert twice.startswith("exposure of canaries planted 2 times")
    assert remark.endswith("name the text that it was trained on.")
    assert meaning.split(" risk. ")[0] in ("Low", "Moderate", "High")


@pytest.mark.usefixtures("_notes")
def test_one_json_object_holds_the_same(ssd):
    code, answer, said = ssd("audit", "notes", "--minutes", "0.0001", "--json", "--seed", "5")
    found = json.loads(answer)
    assert (code, said, found["name"], found["seed"]) == (0, "", "notes", 5)
    assert list(found) == [
        "name",
        "level",
        "meaning",
        "exposure",
        "verbatim",
        "membership",
        "memory",
        "remarks",
        "seed",
        "seconds",
    ]
    assert found["exposure"]["possible"] == 6.0
    assert Registry().find("notes").manifest.metrics[EXPOSURE] == found["exposure"]["bits"]


@pytest.mark.usefixtures("_notes")
def test_the_canaries_stay_at_home(ssd):
    assert FILE in Registry().find("notes").manifest.files
    assert ssd("models", "export", "notes")[0] == 0
    with tarfile.open("notes.tar") as archive:
        names = archive.getnames()
        assert FILE not in archive.extractfile("notes/ssd.json").read().decode()
    assert f"notes/{FILE}" not in names
    assert ssd("models", "import", "notes.tar", "--as", "copy")[0] == 0
    assert ssd("models", "verify", "copy")[0] == 0
    assert ssd("models", "verify", "notes")[0] == 0
    assert ssd("audit", "copy")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("notez",), 3, "no model named 'notez'"),
        (("starter", "x"), 2, "comes with ssd"),
        (("notes", "nowhere.txt"), 2, "no file or folder 'nowhere.txt'"),
        (("notes",), 2, "nothing to measure"),
        (("notes", "--minutes", "0"), 2, "--minutes 0 must be above 0"),
    ],
)
def test_what_cannot_be_is_one_sentence(ssd, arguments, code, sentence):
    add_tiny("notes", kind="small", core="starter", data="abc")
    (Registry().find("notes").folder / "recipe.toml").write_text("seed = 0")
    found, answer, said = ssd("audit", *arguments)
    assert (found, answer, said.count("\n")) == (code, "", 1)
    assert sentence in said


@pytest.mark.parametrize(
    ("metrics", "beginning", "end"),
    [
        ({}, "the weights of 'notes' carry private text, and how much was never measured (ssd audit notes DATA)", "."),
        ({EXPOSURE: 1.0}, "Low risk. The audit of 'notes' found no sign", "share it with care."),
        (
            {VERBATIM: 0.05},
            "Moderate risk. Whoever has the weights of 'notes' can sometimes make it repeat",
            "the text itself.",
        ),
        ({ADVANTAGE: 0.9}, "High risk. Whoever has the weights of 'notes' can tell", "the text itself."),
    ],
)
def test_an_export_warns_of_what_the_audit_found_before_it_writes(ssd, metrics, beginning, end):
    add_tiny("notes", kind="small", core="starter")
    folder = Registry().find("notes").folder
    add = read_manifest(folder)
    add.metrics.update(metrics)
    write_manifest(folder, add)
    code, _, said = ssd("models", "export", "notes")
    assert code == 0
    assert said.startswith(f"ssd: warning: {beginning}")
    assert said.endswith(f"{end}\n")
    Path("notes.tar").unlink()
    (folder / "tokenizer.json").write_text("damaged")  # what stops the writing comes after the warning
    code, _, twice = ssd("models", "export", "notes")
    assert code == 1
    assert twice.startswith(said)
