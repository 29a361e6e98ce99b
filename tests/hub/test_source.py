"""Where a checkpoint comes from: what a user writes, and folders on this computer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.errors import DownloadFailed, SsdError, UsageError
from ssdcli.hub.download import RepoId
from ssdcli.hub.pull import Watch, plan, pull, registered
from ssdcli.hub.source import RepoFile, default_name, parse_source
from ssdcli.machine.placement import Placement
from ssdcli.models.core_checkpoint import load_core
from ssdcli.registry.store import Entry, Registry
from tests.checkpoints import write_checkpoint
from tests.ggufs import write_gguf
from tests.models.families.llada import write_llada

QUIET = Watch(lambda _: None, lambda: None)


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "home", tmp_path / "bundled")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder, with a folder, a file, and a folder that is named like a repository."""
    folder = tmp_path / "here"
    (folder / "org" / "name").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "file.gguf").write_bytes(b"GGUF")
    monkeypatch.chdir(folder)
    return folder


def pulled(folder: Path, registry: Registry, name: str = "tiny") -> Entry:
    return pull(plan(folder), name, registry, QUIET)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("org/name", RepoId("org/name")),
        ("org/name@v1", RepoId("org/name", "v1")),
        ("org/name:file.gguf", RepoFile(RepoId("org/name"), "file.gguf")),
        ("org/name@refs/pr/3:a b/F-1.GGUF", RepoFile(RepoId("org/name", "refs/pr/3"), "a b/F-1.GGUF")),
        ("./org/name", Path("org/name")),
        ("model", Path("model")),
        (".", Path()),
        ("../here/file.gguf", Path("../here/file.gguf")),
        ("file.gguf", Path("file.gguf")),
    ],
)
def test_a_path_is_what_looks_like_one_or_is_there_and_names_no_repository(here, text, place):
    assert parse_source(text) == place


def test_a_home_folder_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert parse_source("~/model") == here / "model"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a repository"),
        ("nothing", "is not a repository"),
        ("./nothing", "no folder or file './nothing'"),
        ("org/nothing.gguf", "no folder or file 'org/nothing.gguf'"),
        ("org/name:", "'' is not a GGUF file"),
        ("org/name:file.bin", "'file.bin' is not a GGUF file"),
        ("org/name:../../x.gguf", "is not a GGUF file"),
        ("org/name:/etc/x.gguf", "is not a GGUF file"),
        ("name:file.gguf", "'name' is not a repository"),
        ("org/name@:file.gguf", "is not a repository"),
    ],
)
def test_what_cannot_be_a_source_is_refused(here, text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_source(text)


def test_what_is_neither_a_folder_nor_a_file_is_refused(here):
    os.mkfifo("pipe.gguf")
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        parse_source("./pipe.gguf")


@given(st.text(max_size=30))
def test_no_text_names_a_file_of_a_repository_outside_of_it(text):
    try:
        place = parse_source(f"org/name:{text}.gguf")
    except UsageError:
        return
    assert isinstance(place, RepoFile)
    assert not place.file.startswith("/")
    assert ".." not in place.file


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("org/LLaDA-8B", "llada-8b"),
        ("org/name:sub/SmolLM2 135M (Q4_1).gguf", "smollm2-135m-q4_1"),
        ("./model", "model"),
        (".", "here"),
        ("./file.gguf", "file"),
    ],
)
def test_the_name_is_the_last_one_spelled_as_a_models(here, text, name):
    assert default_name(parse_source(text.replace(" (", "-").replace(")", ""))) == name


def test_a_name_without_a_usable_letter_is_left_to_the_user(here):
    (here / "模型.gguf").write_bytes(b"GGUF")
    assert default_name(parse_source("./模型.gguf")) == ""


def assert_no_path_in(model: Path, folder: Path) -> None:
    """A path tells of its owner, and models are shared."""
    texts = [path.read_text(encoding="utf-8") for path in model.iterdir() if path.suffix in (".json", ".md")]
    assert len(texts) > 1
    assert not any(str(folder) in text for text in texts)


def test_a_folder_becomes_a_core_as_a_repository_does(tmp_path, registry):
    folder = tmp_path / "LLaDA"
    folder.mkdir()
    write_llada(folder)
    entry = pulled(folder, registry)
    manifest = entry.manifest
    assert (manifest.kind, manifest.architecture, manifest.process) == ("core", "llada", "masked")
    assert manifest.source.startswith("LLaDA@sha256:")
    assert registry.verify("tiny") == []
    assert_no_path_in(entry.folder, tmp_path)
    assert "| weights | converted" in (entry.folder / "README.md").read_text()


@pytest.mark.parametrize("shards", ["1GB", "40KB"])
def test_native_weights_of_a_folder_are_copied_and_never_linked(tmp_path, registry, shards):
    folder = tmp_path / "qwen"
    model = write_checkpoint(folder, "qwen3", shards=shards, eos_token_id=0)
    planned = plan(folder)
    assert (planned.links, planned.bytes_to_fetch, planned.bytes_to_write) == (False, 0, planned.weight_bytes)
    entry = pull(planned, "tiny", registry, QUIET)
    theirs = {(path.stat().st_ino, path.stat().st_dev) for path in folder.iterdir()}
    assert not any((path.stat().st_ino, path.stat().st_dev) in theirs for path in entry.folder.iterdir())
    assert "| weights | copied" in (entry.folder / "README.md").read_text()
    for path in folder.glob("*.safetensors"):
        path.write_bytes(b"")
    assert registry.verify("tiny") == []
    state = load_core(entry.folder, Placement("float32"), None).model.state_dict()
    assert all(weight.equal(state[name]) for name, weight in model.state_dict().items())


def test_files_that_are_links_are_read_as_in_a_snapshot_of_the_hubs_cache(tmp_path, registry):
    write_checkpoint(tmp_path / "blobs", "llama")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (snapshot / path.name).symlink_to(path)
    entry = pulled(snapshot, registry)
    assert not any(path.is_symlink() for path in entry.folder.iterdir())


def test_a_core_of_the_registry_can_be_pulled_from_its_folder(tmp_path, registry):
    write_llada(tmp_path)
    first = pulled(tmp_path, registry)
    second = pulled(first.folder, registry, "second")
    assert second.manifest.files["model.safetensors"] == first.manifest.files["model.safetensors"]
    assert (second.manifest.ends, second.manifest.process) == (first.manifest.ends, first.manifest.process)


def test_a_folder_is_recognised_by_its_content(tmp_path, registry):
    folder = tmp_path / "model"
    write_checkpoint(folder, "llama")
    entry = pulled(folder, registry)
    assert registered(plan(folder).origin, "tiny", registry) == entry
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "newer"}))
    assert registered(plan(folder).origin, "tiny", registry) is None


@pytest.mark.parametrize(
    ("remove", "problem"),
    [
        ("config.json", "has no config.json"),
        ("tokenizer.json", "no tokenizer.json"),
        ("model.safetensors", "holds no safetensors. Name another folder"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, registry, remove, problem):
    folder = tmp_path / "model"
    write_checkpoint(folder, "llama")
    (folder / remove).unlink()
    with pytest.raises(SsdError, match=problem):
        pulled(folder, registry)
    assert not registry.entries()


def test_a_folder_of_gguf_files_says_how_to_name_one(tmp_path, registry):
    write_gguf(tmp_path / "a.gguf", "llama")
    with pytest.raises(SsdError, match=rf"has no config.json.*Name a GGUF file: {tmp_path}/a\.gguf\."):
        plan(tmp_path)


def test_there_must_be_room_for_the_copy(tmp_path, registry, monkeypatch):
    write_checkpoint(tmp_path / "model", "llama")
    planned = plan(tmp_path / "model")
    room = SimpleNamespace(free=planned.weight_bytes - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    with pytest.raises(DownloadFailed, match="free"):
        pull(planned, "tiny", registry, QUIET)
    room.free += 1
    pull(planned, "tiny", registry, QUIET)
