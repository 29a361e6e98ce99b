"""Where the command meets the world: streams that are closed, full or cannot encode, seeds, trailing spaces."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ssdcli.cli import console, explanation, inputs
from ssdcli.generation.prompt_encoder import PromptParts
from ssdcli.options.checks import seed_word


def shell(command: str) -> subprocess.CompletedProcess[str]:
    whole = command.replace("ssd ", f"{sys.executable} -m ssdcli ")
    return subprocess.run(["bash", "-c", whole], capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("ssd recipes list >&-", 1, "ssd: standard output is closed."),
        ("ssd recipes list >/dev/full", 1, "ssd: standard output cannot be written (No space left on device)."),
        ("ssd generate x --core gone 2>&-", 3, ""),
    ],
)
def test_closed_and_full_streams_end_in_one_sentence(command, code, said):
    done = shell(command)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    assert len(done.stderr.splitlines()) == bool(said)


def test_what_an_encoding_lacks_is_replaced_and_json_is_escaped(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    console.open_streams()
    console.write("Märta – \ud800")
    console.write_json({"text": "Märta –"})
    assert raw.getvalue() == b'M\xe4rta ? ?\n{"text": "M\\u00e4rta \\u2013"}\n'
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    console.open_streams()
    console.write_json("– \ud800")
    assert raw.getvalue() == '"– ?"\n'.encode()


def test_a_dumb_terminal_gets_no_escapes(monkeypatch):
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert explanation._colourful()
    monkeypatch.setenv("TERM", "dumb")
    assert not explanation._colourful()


def test_an_argument_in_another_encoding_is_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert inputs.read_prompt("caf\udce9 au lait") == "café au lait"
    assert "windows-1252" in capsys.readouterr().err
    assert inputs.read_prompt("plain\n") == "plain\n"


def test_the_spaces_at_the_end_of_a_prompt_begin_the_answer():
    parts = PromptParts.continued("The kiln  ")
    assert (parts.before(()), parts.spaces) == ("The kiln", "  ")
    assert parts.text([" waited"]) == "  waited"
    assert [parts.certain((), partial) for partial in ("", " ", " wai", " waited")] == ["", "  ", "  wai", "  waited"]
    assert PromptParts.continued("end\n").before(()) == "end\n"
    assert PromptParts.continued("The kiln").text([" waited"]) == " waited"


@pytest.mark.parametrize("seed", [-1, 1 << 32, -(10**40), 10**90])
def test_seeds_of_any_sign_and_size_have_32_bits(seed):
    assert 0 <= seed_word(seed) < 1 << 32
    assert len({seed_word(seed), seed_word(seed - 1), seed_word(seed + 2)}) == 3


def test_usual_seeds_are_as_they_were():
    assert [seed_word(seed) for seed in (0, 7, (1 << 32) - 1)] == [0, 7, (1 << 32) - 1]
    assert json.loads(json.dumps(seed_word(-1))) == seed_word(-1)
