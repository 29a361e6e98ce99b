"""How the command line starts, and how every ending becomes one line and a code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ssdcli import __version__
from ssdcli.cli import app, console
from ssdcli.errors import NoSuchModel, SsdError
from ssdcli.registry.store import Registry

HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "datasets",
    "rich",
    "pydantic",
    "filelock",
    "platformdirs",
    "prompt_toolkit",
    "huggingface_hub",
}


@pytest.fixture
def end_with(monkeypatch):
    """Runs `ssd models list` in this process and ends it with an error."""

    def run(error, *arguments):
        def fail(_):
            raise error

        monkeypatch.setattr(Registry, "entries", fail)
        return app.main(["models", "list", *arguments])

    yield run
    console.configure(quiet=False, debug=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SsdError("it broke.", "Mend it."), 1, "ssd: it broke. Mend it."),
        (NoSuchModel("no model named 'a'."), 3, "ssd: no model named 'a'."),
        (KeyboardInterrupt(), 130, "ssd: interrupted."),
        (MemoryError(), 5, "ssd: out of memory. Use a smaller model, or close other programs."),
        (
            ValueError("first\nsecond"),
            1,
            "ssd: unexpected ValueError: first second. Run again with --debug to see where.",
        ),
    ],
)
def test_every_error_is_one_line_and_a_code(end_with, capsys, error, code, line):
    assert end_with(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == line + "\n"


def test_an_error_of_a_gpu_or_cpu_that_is_full_ends_with_code_5(end_with):
    full = type("OutOfMemoryError", (RuntimeError,), {})
    assert end_with(full("CUDA")) == 5
    assert end_with(RuntimeError("DefaultCPUAllocator: can't allocate memory")) == 5


def test_debug_shows_the_traceback_wherever_it_is_given(end_with, capsys):
    end_with(ValueError("why"), "--debug")
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("ssd: unexpected ValueError: why. Run again with --debug to see where.\n")


def test_what_follows_two_dashes_is_no_flag(capsys):
    assert app.main(["models", "show", "--", "--debug"]) == 2
    assert capsys.readouterr().err.startswith("ssd: '--debug' is not a model name")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "lst"], "ssd: no such command 'lst'. Did you mean 'list'? See 'ssd models --help'."),
        (["models", "show"], "ssd: missing argument 'NAME'. See 'ssd models show --help'."),
        (["models"], "ssd: missing command. See 'ssd models --help'."),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(capsys, arguments, said):
    assert app.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == said + "\n"


def test_no_command_gets_the_help_on_standard_error(ssd_process):
    done = ssd_process()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: ssd" in done.stderr


def test_help_and_version_are_answers(run_ssd):
    for flags in (["--help"], ["-h"], ["models", "--help"]):
        done = run_ssd(*flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: ssd")
    assert run_ssd("--version").stdout == f"ssd {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["models", "list"]])
def test_a_closed_pipe_ends_quietly(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdcli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) in (0, 141)


def imported_by(*arguments):
    command = [sys.executable, "-X", "importtime", "-m", "ssdcli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    return imported


@pytest.mark.parametrize("arguments", [["--help"], ["models", "list"], ["recipes", "list"]])
def test_starting_imports_nothing_heavy(arguments):
    assert not HEAVY & imported_by(*arguments)


@pytest.mark.parametrize("words", ["ssd mo", "ssd models show st", "ssd recipes show --"])
def test_completing_imports_nothing_heavy(words, monkeypatch):
    monkeypatch.setenv("_SSD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert not HEAVY & imported_by()
