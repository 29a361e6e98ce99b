"""A server's model becomes a core, after its tokens were compared with the tokenizer's."""

from __future__ import annotations

import json
import sys

import pytest

from ssdcli.api import load
from ssdcli.cli import app
from ssdcli.errors import RemoteFailed, SsdError, UsageError
from ssdcli.models.remote import client
from ssdcli.models.remote.address import Address
from ssdcli.registry.archive import import_model
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import train_tokenizer
from tests.pulled import add_causal, add_core
from tests.registry.archives import tar
from tests.remote_server import MODEL, published, pull, remote_server
from tests.terminal import Terminal

TOKEN = "sk-verySecret"
NOTE = "Dear landlord, the boiler is cold again and the stairs are dark.\n\n"


@pytest.fixture(autouse=True)
def core(monkeypatch):
    """The model that the server runs; nobody waits between tries."""
    add_causal("core")
    monkeypatch.setattr(client.time, "sleep", lambda _: None)


@pytest.fixture
def server():
    with remote_server("core") as running:
        yield running


@pytest.fixture
def ssd(capsys, monkeypatch):
    """Runs a command here; returns its code, standard output and standard error."""
    monkeypatch.setattr(sys, "stdin", Terminal())

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.main([*arguments])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("most", "told"), [(300, 100), (20, 20), (7, 5)])
def test_a_core_runs_as_its_authors_say_and_is_asked_for_what_the_server_tells(server, most, told):
    server.most = most
    pull(server.url, "core")
    far, near = (Registry().find(name).manifest for name in ("far", "core"))
    same = ("noise", "block_size", "context", "begin", "ends", "format", "vocabulary", "tokenizer")
    assert [getattr(far, name) for name in same] == [getattr(near, name) for name in same]
    assert (far.is_remote, far.source, far.attention) == (True, f"{server.url}#{MODEL}", "autoregressive")
    assert Address.of(Registry().find("far").folder).top == told
    assert Registry().verify("far") == []
    assert {method for method, *_ in server.heard} == {"GET", "POST"}
    assert all(isinstance(body["prompt"], str) for body in server.asked)  # a fixed text


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
def test_a_shorter_window_of_the_server_counts(server, dialect):
    server.dialect, server.window = dialect, 40
    pull(server.url, "core")
    assert Registry().find("far").manifest.context == 40


def test_a_server_that_tells_characters_alone_will_do(server):
    server.dialect = "sglang"
    pull(server.url, "core")
    assert load("far").generate("Dear", seed=1, max_tokens=6).tokens


def test_the_command_registers_it_and_says_what_the_server_sees(server, ssd, monkeypatch):
    server.token = TOKEN
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    folder = str(published("core"))
    asked = ("pull", f"{server.url}#{MODEL}", "--tokenizer", folder, "--token-variable", "MY_TOKEN", "--json")
    code, out, err = ssd(*asked)
    assert (code, err) == (0, "")
    assert json.loads(out)["name"] == "their-core"
    files = [path.read_bytes() for path in Registry().find("their-core").folder.iterdir()]
    assert not [data for data in files if TOKEN.encode() in data]
    monkeypatch.setenv("MY_TOKEN", "another")
    code, _, err = ssd("generate", "Dear", "--core", "their-core")
    assert (code, err.count("does not take the token in MY_TOKEN: Incorrect key.")) == (4, 1)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("{url}#other", ("--tokenizer", "{folder}"), "has no model 'other'. Name one of its models behind the #"),
        ("{url}", ("--tokenizer", "{folder}"), "names no model. Give http://HOST:PORT/v1#MODEL."),
        ("{url}#their/core", (), "a server does not give away its tokenizer."),
        ("{url}#their/core", ("--tokenizer", "{folder}", "--dry-run"), "nothing to fetch of a server's model"),
        ("http://me:secret@localhost/v1#m", ("--tokenizer", "{folder}"), "must not hold a password"),
        ("{url}#their/core", ("--tokenizer", "{folder}", "--token-variable", "A B"), "not the name of a variable"),
        ("https://core.example/v1#m", ("--tokenizer", "{folder}"), "ssd is offline"),
        ("org/name", ("--tokenizer", "{folder}"), "--tokenizer is for a model that a server runs"),
    ],
)
def test_what_cannot_be_pulled_is_refused(server, ssd, source, options, said):
    names = {"url": server.url, "folder": published("core")}
    code, out, err = ssd("pull", source.format(**names), *(option.format(**names) for option in options))
    assert (code, out) == (2, "")
    assert said in err
    assert [entry.name for entry in Registry().entries() if entry.manifest.is_remote] == []


def test_the_tokens_of_another_tokenizer_are_noticed(server):
    """Whether its texts have other lengths, or its ids other meanings."""
    folder = published("core")
    pull(server.url, "core")
    server.shift = 1
    with pytest.raises(SsdError, match=r"are not those of this tokenizer|the vocabulary has 300 tokens"):
        pull(server.url, "core")
    server.shift = 0
    own = (folder / "tokenizer.json").read_text()
    other = train_tokenizer(["quick brown foxes jump over lazy dogs " * 20], 300).to_str()
    path = Registry().find("core").folder / "tokenizer.json"
    path.write_text(other)
    with pytest.raises(UsageError, match="are not those of this tokenizer"):
        pull(server.url, "core")
    path.write_text(own)
    pull(server.url, "core")


def test_a_server_without_log_probabilities_is_refused(server):
    complete = server.complete

    def silent(body):
        status, answer = complete(body)
        for choice in answer.get("choices", ()):
            choice["logprobs"] = None
        return status, answer

    server.complete = silent
    with pytest.raises(RemoteFailed, match="gave no log-probabilities"):
        pull(server.url, "core")


def test_a_diffusion_model_is_refused(server):
    add_core("diffusion")
    with pytest.raises(UsageError, match="must be a causal language model"):
        pull(server.url, "diffusion")


def test_what_needs_its_states_or_its_weights_says_what_to_do_instead(server, ssd, tmp_path):
    """And sends nothing of the text."""
    pull(server.url, "core")
    server.heard.clear()
    notes = tmp_path / "notes.md"
    notes.write_text(NOTE * 40)
    train = ("train-small", str(notes), "--for", "far", "--name", "small", "--steps", "1")
    for arguments, code, said in [
        (("eval", str(notes), "--core", "far"), 2, "would be sent the text to measure. Measure with --core none"),
        ((*train, "--reads-core"), 2, "does not tell its states. Omit --reads-core, or train for a core"),
        ((*train, "--init", "far"), 2, "its weights are not here. Begin from another model."),
        ((*train[:-2], "--draft-head"), 2, "no causal language model on this machine"),
        (("models", "export", "far", "-"), 2, "there is nothing of it here. Pull it where it is wanted"),
    ]:
        found = ssd(*arguments)
        assert (found[0], said in found[2]) == (code, True), found
    assert not server.heard


def test_small_models_and_memories_are_made_for_it(server, ssd, tmp_path):
    """They read their own embeddings, and nothing of their text is sent while they are made."""
    pull(server.url, "core")
    server.heard.clear()
    notes = tmp_path / "notes.md"
    notes.write_text(NOTE * 40)
    code, _, err = ssd("train-small", str(notes), "--for", "far", "--name", "small", "--steps", "2")
    assert code == 0, err
    assert ssd("train-small", str(notes), "--for", "far", "--name", "twin", "--steps", "2", "--causal")[0] == 0
    assert ssd("train-small", str(notes), "--for", "far", "--name", "memory", "--memory-only")[0] == 0
    assert not server.heard
    for small in ("small", "twin", "memory"):
        assert load("far", [small]).generate("Dear", seed=1, max_tokens=6).tokens
    assert load("core", ["small"]).generate("Dear", seed=1, max_tokens=6).tokens  # of the same tokenizer


def test_it_is_described_as_what_it_is(server, ssd):
    pull(server.url, "core")
    source = f"{server.url}#{MODEL}"
    assert "elsewhere" in next(line for line in ssd("models", "list")[1].splitlines() if line.startswith("far"))
    shown = ssd("models", "show", "far")[1]
    assert "far: a core on another machine\n" in shown
    assert f"{source}, which sees the prompt" in " ".join(shown.split())
    assert ssd("models", "verify", "far")[0] == 0
    assert json.loads(ssd("doctor", "--json")[1])["cores"]["far"] == f"runs elsewhere, as {source}."
    code, out, _ = ssd("doctor", "--for", "far")
    assert code == 0
    assert "answers within" in out
    assert "the 20 likeliest tokens" in out


def test_no_archive_brings_an_address(server):
    """Whoever imports one would send texts to a machine that its author chose."""
    pull(server.url, "core")
    entry = Registry().find("far")
    manifest = entry.manifest.to_json().encode()
    files = [(f"far/{file}", (entry.folder / file).read_bytes()) for file in sorted(entry.manifest.files)]
    with pytest.raises(SsdError, match=r"it is a core on another machine, .*, to which text would be sent"):
        import_model(Registry(), tar(("far/ssd.json", manifest), *files), "it", "other")
