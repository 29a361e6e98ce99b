"""The command `ssd pull`, against a hub of our own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssdcli.cli import app
from ssdcli.machine.hardware import Hardware
from ssdcli.registry.store import Registry
from tests.ggufs import write_gguf
from tests.hub_server import HubServer, point_at
from tests.models.families.llada import write_llada

NAME = "org/LLaDA-Tiny"
TOKEN = "hf_verySecretToken"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_llada(tmp_path_factory.mktemp("published"))


@pytest.fixture
def hub(tmp_path, source, monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(NAME, source)
        server.serve_here(monkeypatch, tmp_path / "cache")
        yield server


@pytest.fixture
def ssd(capsys, monkeypatch):
    """Runs the command here and returns its code, standard output and standard error."""
    monkeypatch.setenv("HF_HUB_VERBOSITY", "error")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.main(["pull", *arguments])
        return code, *capsys.readouterr()

    return run


def test_a_checkpoint_is_pulled_in_a_process_of_its_own_without_a_word(source, tmp_path, ssd_process, monkeypatch):
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        server.add(NAME, source, token=TOKEN)
        done = ssd_process("pull", NAME, env=server.env(tmp_path / "cache", HF_TOKEN=TOKEN))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Registry().find("llada-tiny").manifest.source.startswith(f"{NAME}@")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    agents = {request.agent for request in server.requests}  # which tell the hub nothing of what is installed
    assert agents
    assert all(re.fullmatch(r"unknown/None; hf_hub/[\w.]+; python/[\w.]+", str(agent)) for agent in agents), agents


def test_json_tells_what_was_registered(hub, ssd):
    code, out, err = ssd(NAME, "--as", "tiny", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["name"] == "tiny"
    assert facts["source"] == f"{NAME}@{hub.repositories[NAME].refs['main']}"
    assert (facts["architecture"], facts["process"], facts["attention"]) == ("llada", "masked", "full")
    assert Path(facts["path"], "model.safetensors").is_file()


def test_somebody_who_watches_is_told_what_to_try_and_that_nothing_was_done_again(hub, ssd, monkeypatch):
    monkeypatch.setattr("ssdcli.cli.console.is_lively", lambda: True)
    _, out, err = ssd(NAME, "--as", "tiny")
    assert (out, err.splitlines()[-1]) == ("", "Now try: ssd generate --core tiny 'Why is the sky blue?'")
    before = len(hub.requests)
    code, out, err = ssd(NAME, "--as", "tiny")
    assert (code, out) == (0, "")
    assert "already; nothing was fetched" in err
    assert len(hub.requests) == before + 1  # the listing


def test_a_core_without_a_chat_template_is_tried_with_the_beginning_of_a_text(hub, ssd, source, monkeypatch, tmp_path):
    monkeypatch.setattr("ssdcli.cli.console.is_lively", lambda: True)
    plain = Path(shutil.copytree(source, tmp_path / "plain"))
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    (plain / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": None}))
    hub.add("org/plain", plain)
    last = ssd("org/plain", "--as", "plain")[2].splitlines()[-1]
    assert last == "Now try: ssd generate --core plain 'Once upon a time'"


def test_a_dry_run_says_in_words_what_tokens_see(hub, ssd):
    assert "full: all tokens see each other" in ssd(NAME, "--dry-run")[1]


def test_a_dry_run_tells_what_would_be_done_and_fetches_no_weights(hub, ssd):
    code, out, err = ssd(NAME, "--dry-run", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert (facts["name"], facts["family"], facts["process"], facts["attention"]) == (
        "llada-tiny", "LLaDA", "masked", "full",
    )  # fmt: skip
    assert facts["bytes"] == facts["bytes_to_fetch"] == facts["bytes_converted"] == sum(facts["files"].values())
    assert len(facts["files"]) == 3
    assert facts["small_sizes"]
    assert not [request for request in hub.requests if request.path.endswith(".safetensors")]
    assert not Registry().models.exists()
    assert ssd(NAME, "--json")[0] == 0
    again = json.loads(ssd(NAME, "--dry-run", "--json")[1])
    assert (again["bytes_to_fetch"], again["parameters"]) == (0, Registry().find("llada-tiny").manifest.parameters)


def test_a_dry_run_is_readable(hub, ssd):
    _, out, _ = ssd(NAME, "--dry-run")
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["family"].strip() == "LLaDA"
    assert lines["gated"].strip() == "no"
    assert "model-00003-of-00003.safetensors, " in out


def test_a_dry_run_tells_whether_the_core_fits_this_machine(hub, ssd, monkeypatch):
    assert "float32 on cpu: takes " in json.loads(ssd(NAME, "--dry-run", "--json")[1])["this_machine"]
    small = Hardware(cores=1, memory=1000, free=1000, bfloat16=False)
    monkeypatch.setattr("ssdcli.machine.hardware.look", lambda: small)
    code, out, _ = ssd(NAME, "--dry-run", "--json")
    assert code == 0
    assert "are free" in json.loads(out)["this_machine"]
    assert "smaller core" in json.loads(out)["this_machine"]


def test_a_gguf_file_is_pulled_under_its_own_name(ssd, tmp_path):
    write_gguf(tmp_path / "Tiny 2.Q4_1.gguf", "llama", "Q4_1")
    code, out, err = ssd(str(tmp_path / "Tiny 2.Q4_1.gguf"), "--json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["name"], json.loads(out)["architecture"]) == ("tiny-2.q4_1", "llama")
    assert [entry.name for entry in Registry().entries() if not entry.bundled] == ["tiny-2.q4_1"]


def test_what_dequantising_takes_is_said_before_it_starts(ssd, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr("ssdcli.cli.console.note", said.append)
    write_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    assert ssd(str(tmp_path / "tiny.gguf"))[0] == 0
    assert said[0].startswith("Dequantising: ")
    assert re.search(r" on the disk\. To run here: (bfloat16|float32) on cpu: takes ", said[0])  # as suits the CPU
    assert "Registered" in said[1]


def test_a_gguf_file_whose_name_has_no_letter_is_called_what_it_says(ssd, tmp_path):
    write_gguf(tmp_path / "模型.gguf", "llama", name="My Model 2")
    assert ssd(str(tmp_path / "模型.gguf"))[0] == 0
    assert Registry().find("my-model-2")
    write_gguf(tmp_path / "模型.gguf", "llama", name="模型")
    assert "is not a model name: it is empty" in ssd(str(tmp_path / "模型.gguf"))[2]


def test_text_that_may_be_split_otherwise_than_in_training_is_a_warning(ssd, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", "llama", pre="deepseek-coder")
    code, _, err = ssd(str(tmp_path / "tiny.gguf"))
    assert (code, err.count("\n")) == (0, 1)
    assert "ssd: warning: transformers does not know how tiny.gguf splits text" in err
    assert "'deepseek-coder'" in err
    write_gguf(tmp_path / "other.gguf", "llama", pre="llama-bpe")
    assert ssd(str(tmp_path / "other.gguf"))[::2] == (0, "")


def test_a_dry_run_tells_what_dequantising_takes_on_disk_and_in_memory(ssd, tmp_path):
    file = tmp_path / "tiny.gguf"
    write_gguf(file, "llama", "Q4_1")
    code, out, err = ssd(str(file), "--dry-run", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert facts["weights"] == "dequantised from Q4_1 to float32"
    assert (facts["bytes"], facts["bytes_to_fetch"]) == (file.stat().st_size, 0)
    assert 4 * facts["parameters"] <= facts["bytes_converted"] < 4 * facts["parameters"] + 1000
    assert re.match(r"(bfloat16|float32) on cpu: takes ", facts["this_machine"])
    assert not Registry().models.exists()
    lines = dict(line.split("  ", 1) for line in ssd(str(file), "--dry-run")[1].splitlines())
    assert lines["weights"].strip() == "dequantised from Q4_1 to float32"


def test_a_core_from_a_gguf_file_is_shown_verified_and_exported(ssd, tmp_path, capsys):
    write_gguf(tmp_path / "tiny.gguf", "gemma2", "Q8_0")
    assert ssd(str(tmp_path / "tiny.gguf"))[0] == 0
    for arguments in (["show", "tiny"], ["verify", "tiny"], ["export", "tiny", str(tmp_path / "tiny.tar")]):
        assert app.main(["models", *arguments]) == 0
    assert app.main(["models", "import", str(tmp_path / "tiny.tar"), "--as", "again"]) == 0
    assert "tiny.gguf" in capsys.readouterr().out
    assert Registry().verify("again") == []


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["./nothing.gguf"], 2, "there is no folder or file './nothing.gguf'."),
        ([f"{NAME}:x.gguf"], 1, f"{NAME} has no file x.gguf."),
        (["org/nothing"], 4, "the hub has no repository org/nothing."),
        ([f"{NAME}@v9"], 4, f"{NAME} has no revision 'v9'."),
        (["nothing"], 2, "'nothing' is not a repository of the hub."),
        ([NAME, "--as", "Not A Name"], 2, "'Not A Name' is not a model name"),
        ([NAME, "--as", "starter"], 2, "'starter' comes with ssd"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line_and_a_code(hub, ssd, arguments, code, problem):
    found, out, err = ssd(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith(f"ssd: {problem}")
    assert err.count("\n") == 1
    assert not [entry for entry in Registry().entries() if not entry.bundled]


def test_a_name_that_is_taken_says_how_to_replace_it(hub, ssd, source):
    ssd(NAME, "--as", "tiny")
    hub.add("org/other", source)
    code, _, err = ssd("org/other", "--as", "tiny")
    assert code == 2
    assert "'tiny' exists already. Pass --overwrite" in err
    assert ssd("org/other", "--as", "tiny", "--overwrite")[0] == 0
    assert Registry().find("tiny").manifest.source.startswith("org/other@")


def test_a_gated_repository_says_how_to_get_in_and_never_tells_the_token(hub, ssd, source, monkeypatch):
    hub.add(NAME, source, token="hf_another")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    code, out, err = ssd(NAME, "--debug")
    assert (code, out) == (4, "")
    assert f"{NAME} is gated" in err
    assert "'hf auth login'" in err
    assert TOKEN not in err


def test_no_network_and_no_cache_are_download_failures(tmp_path, ssd, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    code, _, err = ssd(NAME)
    assert (code, "http://127.0.0.1:9 cannot be reached" in err) == (4, True)
    monkeypatch.setenv("SSD_OFFLINE", "1")
    code, _, err = ssd(NAME)
    assert (code, "not in the hub's cache, and ssd is offline" in err) == (4, True)
    assert not Registry().models.exists()
