from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ssdcli.registry.manifest import Manifest, write_manifest
from ssdcli.registry.store import Registry


def add(name, **changes):
    fields = {
        "name": name,
        "kind": "small",
        "architecture": "qwen3",
        "process": "simplex",
        "block_size": 25,
        "context": 512,
        "attention": "block-causal",
        "vocabulary": 8192,
        "tokenizer": "ab" * 32,
        "parameters": 5_250_000,
        "core": "big",
        "created": "2026-01-02T03:04:05+00:00",
    }
    with Registry().stage(name) as folder:
        (folder / "model.safetensors").write_text("weights")
        (folder / "README.md").write_text(f"# {name}\n\nMade of letters.\n")
        write_manifest(folder, Manifest(**{**fields, **changes}))


@pytest.fixture
def models():
    add("big", kind="core", core=None, parameters=13_000_000_000)
    add("notes", weight=0.3, metrics={"bits_per_byte": 1.9})


def own(listed):
    return [model for model in listed if not model["bundled"]]


def test_list_shows_every_model_in_a_row(models, run_ssd):
    done = run_ssd("models", "list")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert done.stderr == ""
    assert rows[0] == ["NAME", "KIND", "PROCESS", "PARAMETERS", "CORE", "WEIGHT"]
    assert ["big", "core", "simplex", "13B", "-", "-"] in rows
    assert ["notes", "small", "simplex", "5.25M", "big", "0.3"] in rows


def test_the_shape_of_list_as_json(models, run_ssd):
    listed = json.loads(run_ssd("models", "list", "--json").stdout)
    assert own(listed) == [
        {
            "name": "big",
            "kind": "core",
            "process": "simplex",
            "parameters": 13_000_000_000,
            "core": None,
            "base": None,
            "weight": None,
            "memory": None,
            "bundled": False,
            "default": False,
        },
        {
            "name": "notes",
            "kind": "small",
            "process": "simplex",
            "parameters": 5_250_000,
            "core": "big",
            "base": None,
            "weight": 0.3,
            "memory": None,
            "bundled": False,
            "default": False,
        },
    ]


def test_a_broken_model_is_warned_of_and_the_others_are_listed(models, run_ssd):
    (Registry().models / "big" / "ssd.json").write_text("{")
    done = run_ssd("models", "list", "--json")
    assert [model["name"] for model in own(json.loads(done.stdout))] == ["notes"]
    assert done.stderr.startswith("ssd: warning: the model folder 'big' is broken: ")
    assert done.returncode == 0


def test_show_begins_with_what_a_person_wants_to_know_and_all_tells_the_rest(models, run_ssd):
    told, everything = (run_ssd("models", "show", "notes", *more).stdout for more in ((), ("--all",)))
    assert everything.startswith(told)
    assert told.startswith("notes: a small diffusion model for the core big, 5.25M parameters\n")
    assert 'ssd generate "Dear reader," --with notes' in told
    digest = "ab" * 32
    for fact in (digest, str(Registry().models / "notes"), "bits_per_byte: 1.9", "Made of letters."):
        assert fact not in told
        assert fact in everything
    assert max(map(len, everything.splitlines())) <= 80 or len(str(Registry().models)) > 60


def test_show_has_room_for_what_is_long(run_ssd):
    """In 80 columns no digest is broken, and no sentence runs over."""
    where = f"somebody/a-repository-of-a-long-name-{'x' * 30}@{'0123456789' * 4}"
    add("notes", kind="core", core=None, source=where, metrics={f"measure {n} of a long name": n / 7 for n in range(9)})
    lines = run_ssd("models", "show", "notes", "--all").stdout.splitlines()
    manifest = Registry().find("notes").manifest
    for digest in (manifest.tokenizer, *manifest.files.values()):
        assert [line for line in lines if line.endswith(digest) and len(line) <= 80]
    home = str(Registry().models)
    assert all(len(line) <= 80 or where[:60] in line or home in line for line in lines)


def test_show_tells_what_an_audit_found(models, run_ssd):
    assert "never audited" in " ".join(run_ssd("models", "show", "notes").stdout.split())
    Registry().set_metrics("notes", {"audit exposure": 9.0})
    assert "High risk. Whoever has the weights of 'notes' can" in run_ssd("models", "show", "notes").stdout
    assert "privacy" not in run_ssd("models", "show", "starter").stdout


def test_the_shape_of_show_as_json(models, run_ssd):
    told = json.loads(run_ssd("models", "show", "notes", "--json").stdout)
    manifest = json.loads((Registry().models / "notes" / "ssd.json").read_text())
    assert told == {
        **manifest,
        "path": str(Registry().models / "notes"),
        "bundled": False,
        "default": False,
        "plain": True,
        "card": "# notes\n\nMade of letters.\n",
    }


@pytest.mark.parametrize("command", ["show", "rm", "verify", "default"])
def test_a_mistyped_model_ends_with_code_3_and_the_nearest_name(models, run_ssd, command):
    done = run_ssd("models", command, "note")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == "ssd: no model named 'note'. Did you mean 'notes'? See 'ssd models list'.\n"


@pytest.mark.parametrize("command", ["show", "rm", "verify", "default"])
def test_a_path_is_no_model_name(run_ssd, command):
    done = run_ssd("models", command, "../notes")
    assert done.returncode == 2
    assert done.stderr.startswith("ssd: '../notes' is not a model name: it looks like a path. ")


def test_rm_without_a_terminal_needs_yes(models, run_ssd):
    done = run_ssd("models", "rm", "notes", stdin="y\n")
    assert done.returncode == 2
    assert "Pass --yes." in done.stderr
    assert Registry().find("notes")
    assert run_ssd("models", "rm", "notes", "--yes").returncode == 0
    assert [entry.name for entry in Registry().entries() if not entry.bundled] == ["big"]


@pytest.mark.parametrize(("answer", "code", "kept"), [("n", 1, True), ("y", 0, False)])
def test_rm_asks_on_a_terminal(models, answer, code, kept):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdcli", "models", "rm", "notes"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=60)
    os.close(theirs)
    os.close(ours)
    assert (process.returncode, out) == (code, b"")
    assert (Registry().models / "notes").exists() == kept


def test_rm_warns_of_the_models_made_for_a_core(models, run_ssd):
    done = run_ssd("models", "rm", "big", "--yes")
    assert done.stderr.startswith("ssd: warning: 'notes' was made for 'big'")


def test_rm_warns_of_the_models_specialised_from_a_base(models, run_ssd):
    add("late", base="notes")
    done = run_ssd("models", "rm", "notes", "--yes")
    assert done.stderr.startswith("ssd: warning: 'late' loses its base 'notes'")


def test_rm_removes_a_broken_model(models, run_ssd):
    (Registry().models / "notes" / "ssd.json").write_text("{")
    assert run_ssd("models", "rm", "notes", "--yes").returncode == 0
    assert not (Registry().models / "notes").exists()


def test_rename_is_silent_in_a_pipeline(models, run_ssd):
    done = run_ssd("models", "rename", "big", "bigger")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Registry().find("notes").manifest.core == "bigger"


def test_default_is_printed_and_chosen(models, run_ssd):
    assert run_ssd("models", "default").stdout == "starter\n"
    assert run_ssd("models", "default", "big").returncode == 0
    assert run_ssd("models", "default").stdout == "big\n"
    refused = run_ssd("models", "default", "notes")
    assert refused.returncode == 2
    assert "'notes' is a small model, and only a core can be the default" in refused.stderr


def test_verify_ends_with_code_1_when_a_file_was_changed(models, run_ssd):
    assert run_ssd("models", "verify", "notes").stdout == "notes: 2 files match their digests\n"
    (Registry().models / "notes" / "model.safetensors").write_text("tampered")
    done = run_ssd("models", "verify", "notes")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "model.safetensors" in done.stderr


def test_verify_ends_with_code_1_when_a_file_came_in(models, run_ssd):
    (Registry().models / "notes" / "more.py").write_text("who put it here?")
    done = run_ssd("models", "verify", "notes")
    assert done.returncode == 1
    assert "'notes' differs from its manifest in 1 file: more.py." in done.stderr


def test_show_does_not_let_a_model_steer_the_terminal(models, run_ssd):
    add("odd", architecture="\x1b[31mred")
    (Registry().models / "odd" / "README.md").write_text("# odd\n\n\x1b[2J\x9b1mgone\tand back\n")
    told = run_ssd("models", "show", "odd", "--all").stdout
    assert told.replace("\n", "").replace("\t", "").isprintable()
    assert told.endswith("# odd\n\n\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}1mgone\tand back\n")


def test_model_names_are_completed(models, ssd_process):
    words = {"COMP_WORDS": "ssd models show no", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    assert ssd_process(env=words).stdout.split() == ["notes"]
    words = {"COMP_WORDS": "ssd models default ", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    completed = ssd_process(env=words).stdout.split()
    assert "big" in completed
    assert "notes" not in completed


def test_open_shows_the_report_in_the_browser_and_says_where_it_is(models, run_ssd, ssd_process, tmp_path):
    report = Registry().models / "notes" / "report.html"
    report.write_text("<!doctype html>")
    shown = tmp_path / "shown.txt"
    script = tmp_path / "browser.py"
    script.write_text(f"import sys; open({str(shown)!r}, 'w').write(sys.argv[1])")
    done = ssd_process("models", "show", "notes", "--open", "--json", env={"BROWSER": f"{sys.executable} {script} %s"})
    assert done.returncode == 0
    assert done.stderr == f"{report}\n"
    assert shown.read_text() == report.as_uri()
    assert done.stdout == run_ssd("models", "show", "notes", "--json").stdout


def test_a_browser_that_is_not_there_is_told(models, ssd_process):
    (Registry().models / "notes" / "report.html").write_text("<!doctype html>")
    done = ssd_process("models", "show", "notes", "--open", env={"BROWSER": "/nowhere/browser", "PATH": ""})
    assert done.returncode == 0
    assert "ssd: warning: no browser could be opened; open the file yourself." in done.stderr


def test_a_model_without_a_report_is_told_so(models, run_ssd):
    done = run_ssd("models", "show", "notes", "--open")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "ssd: 'notes' has no report: only training writes one, and it stays on the machine where that ran. "
        "Read its card with 'ssd models show notes --all'.\n"
    )
