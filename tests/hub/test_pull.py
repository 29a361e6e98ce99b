"""A repository of the hub becomes a core, whole or not at all."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdcli.errors import DownloadFailed, SsdError, UsageError
from ssdcli.hub.download import RepoId
from ssdcli.hub.pull import Watch, plan, pull, registered, suited
from ssdcli.hub.source import default_name
from ssdcli.machine.placement import Placement
from ssdcli.models.core_checkpoint import load_core
from ssdcli.models.core_config import read_config
from ssdcli.models.core_spec import KEY
from ssdcli.registry.disk import digest
from ssdcli.registry.store import Entry, Registry
from tests.hub_server import HubServer, point_at
from tests.models.families.checkpoints import write_json
from tests.models.families.llada import BEGIN, END, MASK, ROWS, TEMPLATE, TURN, write_llada

NAME = "org/LLaDA-Tiny"
SHARD = "model-00002-of-00003.safetensors"
QUIET = Watch(lambda _: None, lambda: None)


@pytest.fixture
def source(tmp_path) -> Path:
    """A tiny LLaDA, as published."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    return write_llada(folder)


@pytest.fixture
def hub(tmp_path, source, monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(NAME, source)
        server.serve_here(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "home", tmp_path / "bundled")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "hub"


def pulled(registry: Registry, repo: str = NAME, name: str = "tiny", overwrite: bool = False) -> Entry:
    return pull(plan(RepoId.parse(repo)), name, registry, QUIET, overwrite)


def is_untouched(registry: Registry) -> bool:
    """Whether nothing is registered, and nothing of an attempt is left."""
    return not registry.entries() and not list(registry.models.glob("*")) and not list(registry.models.glob(".*"))


def edit(path: Path, **changes: Any) -> None:
    table = json.loads(path.read_text())
    write_json(path, {key: value for key, value in (table | changes).items() if value is not None})


def as_native(hub: HubServer, registry: Registry, tmp_path: Path) -> Entry:
    """A core whose repository holds native files, so that there is nothing to convert."""
    first = pulled(registry, name="first")
    folder = tmp_path / "native"
    folder.mkdir()
    for file in (*first.manifest.files, "ssd.json"):
        (folder / file).write_bytes((first.folder / file).read_bytes())
    hub.add("org/native", folder)
    return pulled(registry, "org/native", "native")


def test_a_pulled_core_is_registered_with_all_that_running_it_takes(hub, registry):
    entry = pulled(registry)
    manifest = entry.manifest
    assert (manifest.kind, manifest.architecture, manifest.process) == ("core", "llada", "masked")
    assert manifest.source == f"{NAME}@{hub.repositories[NAME].refs['main']}"
    assert (manifest.constants, manifest.attention, manifest.context) == (
        {"mask_id": MASK, "t_min": 0.001},
        "full",
        256,
    )
    assert (manifest.vocabulary, manifest.begin, manifest.ends, manifest.format) == (ROWS, BEGIN, (END, TURN), "chat")
    assert set(manifest.files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja",
    }  # fmt: skip
    assert registry.verify("tiny") == []


def test_its_folder_loads_and_holds_the_weights_that_were_published(hub, source, registry):
    entry = pulled(registry)
    config = read_config(entry.folder)
    core = load_core(entry.folder, Placement("float32"), None)
    published = load_file(source / "model-00001-of-00003.safetensors")["model.transformer.wte.weight"]
    assert torch.equal(core.model.get_input_embeddings().weight, published)
    assert config[KEY].keys() == {"shift", "suppressed", "late_ends"}  # the manifest has the rest
    assert sum(weight.numel() for weight in core.model.parameters()) == entry.manifest.parameters


def test_its_card_names_source_licence_and_how_it_is_run(hub, registry):
    card = (pulled(registry).folder / "README.md").read_text()
    for fact in (NAME, hub.repositories[NAME].refs["main"], "| licence | mit", "masked", "full", "chat template"):
        assert fact in card


def test_a_template_that_is_only_in_the_settings_gets_a_file_of_its_own(hub, registry):
    assert (pulled(registry).folder / "chat_template.jinja").read_text() == TEMPLATE


def test_code_of_the_repository_is_neither_fetched_nor_run(hub, source, cache, registry, tmp_path):
    bomb = tmp_path / "went off"
    for name in ("configuration_llada.py", "modeling_llada.py", "tokenization_llada.py"):
        (source / name).write_text(f"open({str(bomb)!r}, 'w')")
    edit(source / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_llada.Slow", None]})
    hub.add(NAME, source)
    entry = pulled(registry)
    assert "auto_map" not in read_config(entry.folder)
    assert not bomb.exists()
    assert not list(cache.rglob("*.py"))


def test_native_weights_are_linked_and_what_they_link_to_is_left_alone(hub, registry, cache, tmp_path):
    entry = as_native(hub, registry, tmp_path)
    weights = entry.folder / "model.safetensors"
    [blob] = [path for path in cache.rglob("blobs/*") if path.samefile(weights)]
    assert stat.S_IMODE(blob.stat().st_mode) != 0o600
    assert stat.S_IMODE((entry.folder / "config.json").stat().st_mode) == 0o600
    assert entry.manifest.files["model.safetensors"] == blob.name
    assert registry.verify("native") == []


def test_removing_a_core_leaves_the_hubs_cache_as_it_was(hub, registry, cache, tmp_path):
    entry = as_native(hub, registry, tmp_path)
    digest = entry.manifest.files["model.safetensors"]
    registry.remove("native")
    [blob] = cache.glob(f"*/blobs/{digest}")
    assert load_file(blob)


def test_the_digest_of_a_linked_file_is_not_computed_again(hub, registry, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("ssdcli.registry.store.digest", lambda path: seen.append(path.name) or digest(path))
    as_native(hub, registry, tmp_path)
    assert seen.count("model.safetensors") == 1  # of the first core, which was converted


def test_the_bytes_of_the_weights_are_told_as_they_arrive(hub, registry):
    planned, reported, events = plan(RepoId(NAME)), [], []
    pull(planned, "tiny", registry, Watch(reported.append, lambda: events.append(len(reported))))
    assert sum(reported) == planned.weight_bytes
    assert events == [len(reported)]


def test_what_is_registered_already_is_recognised_by_its_commit(hub, source, registry):
    entry = pulled(registry)
    assert registered(plan(RepoId(NAME)).origin, "tiny", registry) == entry
    assert registered(plan(RepoId(NAME)).origin, "another", registry) is None
    edit(source / "config.json", note="newer")
    hub.add(NAME, source)
    assert registered(plan(RepoId(NAME)).origin, "tiny", registry) is None


def test_a_name_that_is_taken_is_refused_before_the_weights_are_fetched(hub, registry):
    pulled(registry)
    before = len(hub.downloads(SHARD))
    hub.add("org/other", hub.repositories[NAME].commits[hub.repositories[NAME].refs["main"]])
    with pytest.raises(UsageError, match=r"'tiny' exists already.*--overwrite"):
        pulled(registry, "org/other")
    assert registry.find("tiny").manifest.source.startswith(NAME)
    assert len(hub.downloads(SHARD)) == before
    assert pulled(registry, "org/other", overwrite=True).manifest.source.startswith("org/other")


def test_offline_a_core_is_made_of_what_the_cache_has(hub, registry, monkeypatch):
    first = pulled(registry)
    monkeypatch.setenv("SSD_OFFLINE", "1")
    before = len(hub.requests)
    second = pulled(registry, name="second")
    weights = "model.safetensors"
    assert second.manifest.files[weights] == first.manifest.files[weights]
    assert second.manifest.source == first.manifest.source
    assert len(hub.requests) == before


def test_a_pull_that_broke_off_goes_on_with_the_shards_that_are_missing(hub, registry):
    hub.drop(NAME, SHARD, after=0, times=100)
    with pytest.raises(DownloadFailed, match=SHARD):
        pulled(registry)
    assert is_untouched(registry)
    hub.faults.clear()
    pulled(registry)
    assert len(hub.downloads("model-00001-of-00003.safetensors")) == 1


def test_there_must_be_room_before_the_first_byte_of_the_weights(hub, registry, monkeypatch):
    planned = plan(RepoId(NAME))
    room = SimpleNamespace(free=2 * planned.weight_bytes - 1)  # to fetch them, and to convert them
    monkeypatch.setattr("shutil.disk_usage", lambda _: room)
    with pytest.raises(DownloadFailed, match=r"has [0-9,]+ B free"):
        pull(planned, "tiny", registry, QUIET)
    assert hub.downloads(SHARD) == []
    assert is_untouched(registry)
    room.free += 1
    pull(planned, "tiny", registry, QUIET)


def test_what_is_linked_takes_no_room(hub, registry, tmp_path, monkeypatch):
    as_native(hub, registry, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    planned = plan(RepoId("org/native"))
    assert (planned.links, planned.bytes_to_fetch) == (True, 0)
    pull(planned, "again", registry, QUIET)


def wrong_digest(hub: HubServer, source: Path) -> None:
    data = (source / SHARD).read_bytes()
    hub.serve_instead(NAME, SHARD, data[:-1] + bytes([data[-1] ^ 1]), times=9)


def truncated(hub: HubServer, source: Path) -> None:
    hub.serve_instead(NAME, SHARD, (source / SHARD).read_bytes()[:-100], times=9)


def no_shard(hub: HubServer, source: Path) -> None:
    (source / SHARD).unlink()
    hub.add(NAME, source)


def lying_header(hub: HubServer, source: Path) -> None:
    data = (source / SHARD).read_bytes()
    (source / SHARD).write_bytes((2**40).to_bytes(8, "little") + data[8:])
    hub.add(NAME, source)


def wrong_shape(hub: HubServer, source: Path) -> None:
    tensors = load_file(source / SHARD)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2)
    save_file(tensors | {name: tensors[name][:-1].contiguous()}, source / SHARD, metadata={"format": "pt"})
    hub.add(NAME, source)


def changed(file: str, **changes: Any) -> Callable[[HubServer, Path], None]:
    def change(hub: HubServer, source: Path) -> None:
        edit(source / file, **changes)
        hub.add(NAME, source)

    return change


def written(file: str, text: str) -> Callable[[HubServer, Path], None]:
    def write(hub: HubServer, source: Path) -> None:
        (source / file).write_text(text)
        hub.add(NAME, source)

    return write


def without(file: str) -> Callable[[HubServer, Path], None]:
    def remove(hub: HubServer, source: Path) -> None:
        (source / file).unlink()
        hub.add(NAME, source)

    return remove


@pytest.mark.parametrize(
    ("break_it", "kind", "problem"),
    [
        (wrong_digest, DownloadFailed, f"{SHARD} of {NAME} arrived damaged"),
        (truncated, DownloadFailed, f"{SHARD} of {NAME} arrived incomplete"),
        (no_shard, SsdError, f"lacks {SHARD}"),
        (lying_header, SsdError, SHARD),
        (wrong_shape, SsdError, r"model.*should be of shape \(.*\)"),
        (written("config.json", "{"), SsdError, r"config\.json is not valid JSON"),
        (written("config.json", "[" * 100_000), SsdError, r"config\.json is not valid JSON"),
        (written("config.json", "[]"), SsdError, r"config\.json holds no table"),
        (without("config.json"), SsdError, r"has no config\.json"),
        (changed("config.json", architectures=["MambaForCausalLM"]), UsageError, "MambaForCausalLM.*It knows.*LLaDA"),
        (changed("config.json", n_heads="many"), SsdError, "n_heads"),
        (written("tokenizer.json", '{"version": "1.0"}'), SsdError, r"tokenizer\.json cannot be read"),
        (without("tokenizer.json"), SsdError, r"no tokenizer\.json"),
        (written("tokenizer_config.json", "null"), SsdError, r"tokenizer_config\.json holds no table"),
        (written("model.safetensors.index.json", "{}"), SsdError, "which file holds"),
        (written("model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'), SsdError, "lacks"),
        (written("model.safetensors.index.json", '{"weight_map": {"a": 1}}'), SsdError, "which file holds"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_registered(hub, source, registry, break_it, kind, problem):
    break_it(hub, source)
    with pytest.raises(kind, match=problem):
        pulled(registry)
    assert is_untouched(registry)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused_with_both_numbers(hub, source, registry):
    added = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    edit(source / "tokenizer_config.json", added_tokens_decoder=added | {"400": {"content": "<|late|>"}})
    hub.add(NAME, source)
    with pytest.raises(SsdError, match=f"401 ids, but the model has embeddings for {ROWS}"):
        pulled(registry)


def test_a_tokenizer_may_have_a_token_for_images_that_the_model_has_no_row_for(hub, source, registry):
    added = json.loads((source / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    edit(source / "tokenizer_config.json", added_tokens_decoder=added | {str(ROWS): {"content": "<image_soft_token>"}})
    hub.add(NAME, source)
    assert pulled(registry).manifest.vocabulary == ROWS


def test_no_network_registers_nothing(registry, cache, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9", cache)
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        pulled(registry)
    assert is_untouched(registry)


@pytest.mark.parametrize(
    ("repo", "name"),
    [("org/LLaDA-8B", "llada-8b"), ("org/v1.5_X", "v1.5_x"), ("org/_hidden", "hidden"), ("o/" + "N" * 150, "n" * 100)],
)
def test_a_core_is_called_as_its_repository_in_the_registrys_grammar(repo, name):
    assert default_name(RepoId(repo)) == name


@pytest.mark.parametrize(
    ("parameters", "name"), [(10**6, "nano"), (1.1e9, "mini"), (8e9, "small"), (13e9, "base"), (100e9, "base")]
)
def test_the_small_size_for_a_core_is_nearest_to_a_hundredth_of_it(parameters, name):
    assert suited(int(parameters)).name == name


def test_a_plan_is_made_without_the_weights(hub):
    planned = plan(RepoId(NAME))
    assert [file.name for file in planned.weights] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert hub.downloads(SHARD) == []
