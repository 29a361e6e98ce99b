"""The program `llm` writes what `ssd generate` writes, with its options, streams, conversations and logs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import llm
import pytest
from click.testing import CliRunner
from llm.cli import cli

import ssdcli
from ssdcli.api import Message, Options, Request
from ssdcli.serving import llm_plugin
from tests.pulled import add_causal
from tests.tiny import add_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs `llm` with the plugin beside a causal core and a small model for it."""
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    known = llm.pm.is_registered(llm_plugin)
    if not known:
        llm.pm.register(llm_plugin, "ssd")

    def invoke(*arguments):
        done = CliRunner().invoke(cli, arguments, input="", catch_exceptions=False)
        return done.exit_code, done.stdout, done.stderr

    yield invoke
    if not known:
        llm.pm.unregister(llm_plugin)


@pytest.mark.parametrize("stream", [(), ("--no-stream",)])
def test_a_prompt_is_written_as_by_generate(run, stream):
    code, out, _ = run("-m", "ssd/notes", "Dear", "-o", "seed", "3", "-o", "max_tokens", "12", *stream)
    assert (code, out) == (0, ssdcli.load("core", ["notes"]).generate("Dear", seed=3, max_tokens=12).text + "\n")


def test_options_name_further_members_a_rule_and_context(run):
    given = ("-o", "members", "notes=0.6", "-o", "rule", "average", "-o", "stop", "e", "-o", "seed", "1")
    _, out, _ = run("-m", "ssd/core", "Dear", *given, "-o", "max_tokens", "9")
    writer = ssdcli.load("core", {"notes": 0.6}, blend=ssdcli.Blend(rule="average"))
    assert out == writer.generate("Dear", seed=1, max_tokens=9, stop=("e",)).text + "\n"


def test_a_conversation_goes_on_and_is_logged_by_llm(run):
    """With the system text and all turns before; what llm keeps has the seed."""
    given = ("-o", "seed", "3", "-o", "max_tokens", "8")
    _, first, _ = run("-m", "ssd/notes", "Dear", "-s", "Be brief.", *given)
    _, second, _ = run("-c", "Go on.", "-s", "Be brief.", *given)
    said = [("system", "Be brief."), ("user", "Dear"), ("assistant", first[:-1]), ("user", "Go on.")]
    request = Request(messages=tuple(Message(*turn) for turn in said))
    (alone,) = ssdcli.load("core", ["notes"]).generate_batch([request], Options(seed=3, max_tokens=8))
    assert second == alone.text + "\n"
    _, logs, _ = run("logs", "--json")
    kept = json.loads(logs)
    assert {one["model"] for one in kept} == {"ssd/notes"}
    assert all(one["output_tokens"] <= 8 and one["input_tokens"] for one in kept)


def test_models_are_listed_and_errors_told(run):
    _, out, _ = run("models", "--options")
    assert "SsdModel: ssd/notes" in out
    assert "no_repeat: int" in out
    code, _, err = run("-m", "ssd/core", "Dear", "-o", "members", "mail")
    assert code == 1
    assert "no model named 'mail'" in err
    code, _, err = run("-m", "ssd/core", "Dear", "-o", "temperature", "-1")
    assert "temperature=-1.0 must be at least 0" in err


def test_the_plugin_is_declared_and_loads_no_torch():
    """`llm` starts with all of its plugins."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]["llm"]
    assert declared == {"ssd": llm_plugin.__name__}
    script = "import sys, ssdcli.serving.llm_plugin\nassert not {'torch', 'starlette'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
