from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from ssdcli.cli import app
from ssdcli.registry.manifest import READER
from ssdcli.registry.store import Registry
from tests.tiny import add_family, add_tiny, tiny_tokenizer


@pytest.fixture
def ssd(capfd):
    """Runs `ssd models` in this process; returns the code, standard output and standard error."""

    def run(*arguments):
        return app.main(["models", *map(str, arguments)]), *capfd.readouterr()

    return run


@pytest.fixture(autouse=True)
def _family(tmp_path, monkeypatch):
    add_family()
    monkeypatch.chdir(tmp_path)


def test_models_go_to_another_machine_as_they_are(ssd, tmp_path, monkeypatch):
    here = contents(Registry().models)
    assert ssd("export", "big") == (0, "", _carries("big"))
    assert ssd("export", "notes") == (0, "", _carries("notes"))
    monkeypatch.setenv("SSD_HOME", str(tmp_path / "elsewhere"))
    assert ssd("import", "big.tar") == (0, "", "")
    assert ssd("import", "notes.tar") == (0, "", "")
    assert contents(Registry().models).items() == {f: here[f] for f in here if not f.startswith("mail/")}.items()
    assert ssd("verify", "notes") == (0, "notes: 3 files match their digests\n", "")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _carries(name):
    return (
        f"ssd: warning: the weights of {name!r} carry private text, and how much was never measured "
        f"(ssd audit {name} DATA); give them only to people whom you would give that text.\n"
    )


def test_a_pulled_or_bundled_core_carries_nobodys_text(ssd):
    add_tiny("pulled", source="org/model@0123")
    assert ssd("export", "pulled") == (0, "", "")
    assert ssd("export", "starter") == (0, "", "")


def test_an_archive_goes_through_a_pipe(ssd, tmp_path):
    command = [sys.executable, "-m", "ssdcli", "models"]
    written = subprocess.run([*command, "export", "notes", "-"], capture_output=True, check=True)
    ssd("export", "notes", "notes.tar")
    assert (tmp_path / "notes.tar").read_bytes() == written.stdout
    read = [*command, "import", "-", "--as", "twin"]
    done = subprocess.run(read, input=written.stdout, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert Registry().find("twin").manifest.weight == 0.3


@pytest.mark.parametrize("command", [("export", "notes", "-"), ("import", "-")])
def test_a_terminal_is_neither_written_to_nor_read(command):
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "ssdcli", "models", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert b"pipe" in done.stderr


def test_export_keeps_an_old_file(ssd, tmp_path):
    (tmp_path / "notes.tar").write_text("old")
    code, _, said = ssd("export", "notes")
    assert (code, said) == (
        2,
        "ssd: 'notes.tar' exists already. Pass --overwrite to replace it, or name another file.\n",
    )
    assert (tmp_path / "notes.tar").read_text() == "old"
    assert ssd("export", "notes", "--overwrite")[0] == 0
    assert (tmp_path / "notes.tar").stat().st_size > 1000


def test_a_mistyped_model_is_not_exported(ssd):
    code, _, said = ssd("export", "note")
    assert (code, said) == (3, "ssd: no model named 'note'. Did you mean 'notes'? See 'ssd models list'.\n")


def test_a_name_that_comes_with_ssd_says_how_to_choose_another(ssd):
    ssd("export", "starter")
    said = "ssd: 'starter' comes with ssd and cannot be changed. Choose another name with --as.\n"
    assert ssd("import", "starter.tar") == (2, "", said)
    assert ssd("import", "starter.tar", "--as", "twin")[0] == 0


def test_import_keeps_an_old_model(ssd):
    ssd("export", "notes")
    Registry().set_weight("notes", 0.7)
    code, _, said = ssd("import", "notes.tar")
    assert (code, said) == (
        2,
        "ssd: 'notes' exists already. Pass --overwrite to replace it, or choose another name with --as.\n",
    )
    assert Registry().find("notes").manifest.weight == 0.7
    assert ssd("import", "notes.tar", "--overwrite")[0] == 0
    assert Registry().find("notes").manifest.weight == 0.3


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("absent.tar", 2, "the archive 'absent.tar' cannot be read (No such file or directory). Name a file"),
        (".", 2, "the archive '.' cannot be read (Is a directory). Name a file"),
        ("text.tar", 1, "'text.tar' cannot be imported: it is not a plain tar archive, or not all of one"),
    ],
)
def test_what_is_no_archive_is_refused_in_a_sentence(ssd, tmp_path, file, code, said):
    (tmp_path / "text.tar").write_text("a letter\n" * 100)
    before = Registry().entries()
    done = ssd("import", file)
    assert (done[0], done[1]) == (code, "")
    assert done[2].startswith(f"ssd: {said}")
    assert done[2].count("\n") == 1
    assert Registry().entries() == before


def test_import_warns_when_the_core_is_not_here(ssd):
    ssd("export", "notes")
    ssd("rm", "notes", "--yes")
    ssd("rm", "big", "--yes")
    code, _, said = ssd("import", "notes.tar")
    assert code == 0
    assert (
        said
        == "ssd: warning: 'notes' was made for 'big', and there is no model of this name; pull, train or import it.\n"
    )


def test_a_model_that_reads_its_core_goes_without_it_and_is_missed_once_where_it_is_not(ssd):
    digest = Registry().find("big").manifest.weights_digest
    add_tiny("side", 9, kind="small", core="big", architecture=READER, base_weights=digest)
    assert ssd("export", "side") == (0, "", _carries("side"))
    with tarfile.open("side.tar") as archive:
        assert {*archive.getnames()} == {
            f"side/{file}" for file in ("ssd.json", *Registry().find("side").manifest.files)
        }
    assert ssd("import", "side.tar", "--as", "twin") == (0, "", "")
    add_tiny("big", 10)
    said = ssd("import", "side.tar", "--as", "twin", "--overwrite")[2]
    assert said.startswith("ssd: warning: 'twin' is a small model that reads another 'big' than the one here")
    assert ssd("export", "side", "--overwrite") == (0, "", _carries("side"))
    ssd("rm", "big", "--yes")
    said = ssd("import", "side.tar", "--as", "twin", "--overwrite")[2]
    assert said == (
        "ssd: warning: 'twin' is a small model that reads 'big', and there is no model of this name. "
        "Import or pull that model again; the small model is of no use without it.\n"
    )


def test_import_warns_when_the_base_is_not_here(ssd):
    add_tiny("late", kind="small", core="big", base="notes")
    ssd("export", "late")
    ssd("rm", "notes", "--yes")
    said = ssd("import", "late.tar", "--as", "later")[2]
    assert said == "ssd: warning: 'later' was specialised from 'notes'; --rule contrast needs a model of this name.\n"


def test_a_model_made_for_another_tokenizer_is_warned_of_and_never_joins_the_core(ssd, run_ssd):
    ssd("export", "notes")
    words = json.loads(tiny_tokenizer().to_str())["model"]["vocab"]
    add_tiny("big", tokenizer=Tokenizer(WordLevel({f"{word}s": index for word, index in words.items()})))
    code, _, said = ssd("import", "notes.tar", "--overwrite")
    assert (code, said) == (
        0,
        "ssd: warning: 'notes' was made for another 'big' than the one here: their tokenizers differ.\n",
    )
    refused = run_ssd("generate", "Dear", "--with", "notes")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("ssd: 'notes' does not fit 'big': their tokenizers differ. ")
