"""A GGUF file of a repository: planned from its header alone, fetched as other weights are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ssdcli.errors import DownloadFailed, SsdError
from ssdcli.hub.pull import Watch, plan, pull, registered
from ssdcli.hub.source import parse_source
from ssdcli.registry.store import Entry, Registry
from tests.ggufs import write_gguf
from tests.hub_server import HubServer, point_at

NAME = "org/Tiny-GGUF"
FILE = "sub/Tiny.Q8_0.gguf"
SOURCE = f"{NAME}:{FILE}"
QUIET = Watch(lambda _: None, lambda: None)
PADDING = 1 << 22


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A repository with two files; the larger one goes on for a while after its tensors."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "sub").mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    write_gguf(folder / FILE, "llama3", "Q8_0")
    write_gguf(folder / "Tiny.F16.gguf", "llama", "F16")
    with (folder / FILE).open("ab") as stream:
        stream.write(bytes(PADDING))
    return folder


@pytest.fixture
def hub(tmp_path, published, monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(NAME, published)
        server.serve_here(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "home", tmp_path / "bundled")


def pulled(registry: Registry, source: str = SOURCE, name: str = "tiny") -> Entry:
    return pull(plan(parse_source(source)), name, registry, QUIET)


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > PADDING]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_plan_is_made_without_fetching_the_file(hub, tmp_path, published, ranges):
    hub.ranges = ranges
    planned = plan(parse_source(SOURCE))
    assert planned.spec.attention == "autoregressive"
    assert planned.bytes_to_fetch == planned.weight_bytes == (published / FILE).stat().st_size
    assert planned.bytes_to_write < planned.weight_bytes  # which are mostly padding
    assert planned.licence == "mit"
    assert planned.native["rope_parameters"]["short_factor"] == planned.native["rope_parameters"]["long_factor"]
    assert not cached(tmp_path)
    assert all(request.range for request in hub.downloads(FILE))


def test_it_is_fetched_checked_and_registered_with_commit_and_file(hub, registry, published):
    entry, local = pulled(registry), pull(plan(published / FILE), "local", registry, QUIET)
    assert entry.manifest.source == f"{NAME}@{hub.repositories[NAME].refs['main']}:{FILE}"
    assert entry.manifest.files["model.safetensors"] == local.manifest.files["model.safetensors"]
    assert registered(plan(parse_source(SOURCE)).origin, "tiny", registry) == entry
    assert registered(plan(parse_source(f"{NAME}:Tiny.F16.gguf")).origin, "tiny", registry) is None
    assert registry.verify("tiny") == []


def test_a_revision_can_be_named(hub, registry, published):
    hub.add(NAME, published, revision="v1")
    assert pulled(registry, f"{NAME}@v1:Tiny.F16.gguf").manifest.source.endswith(":Tiny.F16.gguf")


def stopped(_: float) -> None:
    raise KeyboardInterrupt


def test_a_download_that_was_stopped_goes_on_where_it_stopped(hub, registry, monkeypatch):
    planned = plan(parse_source(SOURCE))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.drop(NAME, FILE, after=50_000)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.time.sleep", stopped)
        with pytest.raises(KeyboardInterrupt):  # while the library waits for another try
            pull(planned, "tiny", registry, QUIET)
    assert not list(registry.models.glob("*"))
    pull(planned, "tiny", registry, QUIET)
    assert [request.range for request in hub.downloads(FILE)][-2:] == [None, "bytes=50000-"]


def test_a_damaged_download_is_refused_and_forgotten(hub, registry, published, tmp_path):
    planned = plan(parse_source(SOURCE))
    data = (published / FILE).read_bytes()
    hub.serve_instead(NAME, FILE, data[:-1] + b"x", times=1)
    with pytest.raises(DownloadFailed, match="arrived damaged"):
        pull(planned, "tiny", registry, QUIET)
    assert not registry.entries()
    pull(planned, "tiny", registry, QUIET)


def test_a_connection_that_breaks_while_the_header_is_read_is_a_download_failure(hub):
    hub.drop(NAME, FILE, after=1000, times=100)
    with pytest.raises((DownloadFailed, SsdError), match=r"broke off|cut off"):
        plan(parse_source(SOURCE))


def test_offline_what_is_in_the_cache_is_used(hub, registry, monkeypatch):
    first = pulled(registry)
    monkeypatch.setenv("SSD_OFFLINE", "1")
    before = len(hub.requests)
    assert pulled(registry, name="second").manifest.source == first.manifest.source
    assert len(hub.requests) == before
    with pytest.raises(SsdError, match=r"has no file Tiny\.F16\.gguf"):
        plan(parse_source(f"{NAME}:Tiny.F16.gguf"))


def test_a_file_that_is_not_there_is_named_with_those_that_are(hub):
    with pytest.raises(SsdError, match=rf"no file x\.gguf\. Name a GGUF file: {NAME}:Tiny\.F16\.gguf, {NAME}:{FILE}"):
        plan(parse_source(f"{NAME}:x.gguf"))


def test_a_repository_of_gguf_files_alone_says_how_to_name_one(hub):
    with pytest.raises(SsdError, match=rf"has no config\.json.*Name a GGUF file: {NAME}:Tiny\.F16\.gguf"):
        plan(parse_source(NAME))


def test_no_network_is_a_download_failure(tmp_path, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        plan(parse_source(SOURCE))
