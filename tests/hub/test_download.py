"""What the hub's side of a pull promises, held against a hub of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssdcli.errors import DownloadFailed, SsdError, UsageError
from ssdcli.hub.download import Listing, RemoteFile, RepoId, check_space, look, small_files
from ssdcli.hub.source import weight_files
from tests.hub_server import EXPIRED, HubServer, point_at

NAME = "org/Model-1"
REPO = RepoId(NAME)
SHARD = "model.safetensors"
WEIGHTS = bytes(range(256)) * 400
FILES = {
    "config.json": b'{"model_type": "llada"}',
    "tokenizer.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\nA card.\n",
    SHARD: WEIGHTS,
    "modeling_llada.py": b"raise SystemExit",
    "images/loss.png": b"png",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "repository"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(folder, cache, monkeypatch) -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(NAME, folder)
        server.serve_here(monkeypatch, cache)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        yield server


def fetched(listing: Listing, *names: str) -> dict[str, bytes]:
    files = [file for file in listing.files if file.name in names]
    return {name: path.read_bytes() for name, path in listing.fetch(files, lambda _: None).items()}


def blobs(cache: Path) -> list[bytes]:
    return [path.read_bytes() for path in cache.glob("hub/models--*/blobs/*")]


@pytest.mark.parametrize(
    ("text", "revision"), [("org/name", "main"), ("a-b/c.d_1@v1.0", "v1.0"), ("o/n@refs/pr/3", "refs/pr/3")]
)
def test_a_repository_is_named_with_or_without_a_revision(text, revision):
    repo = RepoId.parse(text)
    assert (repo.name, repo.revision) == (text.partition("@")[0], revision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "org/",
        "/name",
        "a/b/c",
        "org/name@",
        "../name",
        "org/..",
        "org/n@../x",
        "org/n me",
        "org/n@-x",
        "https://huggingface.co/org/name",
    ],
)
def test_what_cannot_be_a_repository_is_refused(text):
    with pytest.raises(UsageError, match="ORG/NAME"):
        RepoId.parse(text)


@given(st.text(max_size=20))
def test_no_text_names_anything_outside_the_cache(text):
    try:
        repo = RepoId.parse(text)
    except UsageError:
        return
    assert ".." not in f"{repo.name}{repo.revision}"
    assert repo.name.count("/") == 1
    assert not repo.revision.startswith("/")


def test_a_listing_tells_commit_sizes_digests_and_licence(hub):
    listing = look(REPO)
    assert listing.place == f"{NAME}@{hub.repositories[NAME].refs['main']}"
    assert {file.name: file.size for file in listing.files} == {name: len(content) for name, content in FILES.items()}
    assert {len(file.digest) for file in listing.files} == {40, 64}
    assert (listing.gated, listing.licence) == (False, "mit")


def test_a_revision_pins_the_commit_that_is_fetched(hub, folder, tmp_path):
    old = hub.add(NAME, folder, revision="v1")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "config.json").write_bytes(b"{}")
    hub.add(NAME, newer)
    pinned = look(RepoId(NAME, "v1"))
    assert pinned.commit == old == look(RepoId(NAME, old)).commit != look(REPO).commit
    assert fetched(pinned, "config.json") == {"config.json": FILES["config.json"]}
    assert fetched(look(REPO), "config.json") == {"config.json": b"{}"}


def test_only_what_tells_of_the_model_is_fetched_before_its_weights(hub):
    assert {file.name for file in small_files(look(REPO).files)} == {"config.json", "tokenizer.json"}


def listed(*names: str) -> Listing:
    return Listing(REPO, "0" * 40, tuple(RemoteFile(name, 1, None) for name in names))


@pytest.mark.parametrize(
    ("there", "shards", "pickles", "needed"),
    [
        (["a.safetensors", "b.safetensors", "all.safetensors"], ["b.safetensors", "a.safetensors"] * 2, [], "ab"),
        (["model.safetensors", "adapter.safetensors"], [], [], ["model.safetensors"]),
        (["b.safetensors", "x/a.safetensors"], [], [], "b"),
        (["a.safetensors", "weights.bin"], [], ["weights.bin"], "a"),
        (["weights.bin", "more.pt", "optimizer.pt"], [], ["weights.bin", "more.pt"], ["weights.bin", "more.pt"]),
    ],
)  # fmt: skip
def test_the_index_names_the_weights_and_pickles_count_only_without_safetensors(there, shards, pickles, needed):
    names = [f"{letter}.safetensors" for letter in needed] if isinstance(needed, str) else needed
    assert [file.name for file in weight_files(listed(*there), shards, pickles)] == names


@pytest.mark.parametrize(
    ("there", "shards", "pickles", "problem"),
    [
        (["a.safetensors"], ["a.safetensors", "b.safetensors"], [], "lacks b.safetensors"),
        (["../a.safetensors"], ["../a.safetensors"], [], r"lacks \.\./a.safetensors"),
        (["weights.bin"], [], [], "holds no safetensors"),
        (["weights.bin"], [], ["weights.bin", "more.pt"], "lacks more.pt"),
    ],
)
def test_weights_that_are_not_all_there_are_refused_by_name(hub, there, shards, pickles, problem):
    with pytest.raises(SsdError, match=problem):
        weight_files(listed(*there), shards, pickles)


def test_files_arrive_whole_and_every_byte_is_reported_once(hub):
    listing, reported = look(REPO), []
    paths = listing.fetch(small_files(listing.files) + weight_files(listing, [], []), reported.append)
    assert {name: path.read_bytes() for name, path in paths.items()} == {name: FILES[name] for name in paths}
    assert sum(reported) == sum(len(FILES[name]) for name in paths)


def test_what_is_in_the_cache_is_not_fetched_again_but_reported(hub):
    listing, reported = look(REPO), []
    weights = weight_files(listing, [], [])
    assert listing.to_fetch(weights) == len(WEIGHTS)
    for _ in range(2):
        reported.clear()
        listing.fetch(weights, reported.append)
        assert listing.to_fetch(weights) == 0
    assert sum(reported) == len(WEIGHTS)
    assert len(hub.downloads(SHARD)) == 1


def test_content_that_another_commit_left_in_the_cache_is_not_fetched_again(hub, folder):
    fetched(look(REPO), SHARD)
    (folder / "README.md").write_text("another card")
    hub.add(NAME, folder)
    newer = look(REPO)
    assert newer.to_fetch(weight_files(newer, [], [])) == 0
    assert fetched(newer, SHARD) == {SHARD: WEIGHTS}
    assert len(hub.downloads(SHARD)) == 1


def test_a_broken_connection_is_taken_up_where_it_broke(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.drop(NAME, SHARD, after=50_000)
    assert fetched(look(REPO), SHARD) == {SHARD: WEIGHTS}
    first, second = hub.downloads(SHARD)
    assert (first.range, second.range) == (None, "bytes=50000-")


def test_a_connection_that_keeps_breaking_says_that_the_same_command_resumes(hub):
    hub.drop(NAME, SHARD, after=0, times=100)
    listing = look(REPO)
    with pytest.raises(
        DownloadFailed, match=f"broke off while {SHARD} of {NAME} was fetched. Run the same command again"
    ):
        listing.fetch([*small_files(listing.files), *weight_files(listing, [], [])], lambda _: None)
    hub.faults.clear()
    before = len(hub.downloads("config.json"))
    assert fetched(listing, "config.json", SHARD)[SHARD] == WEIGHTS
    assert len(hub.downloads("config.json")) == before  # what had arrived was kept


def test_what_had_arrived_of_a_file_is_not_fetched_again_by_another_process(hub, cache, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.drop(NAME, SHARD, after=30_000, times=1)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", _stopped)
    with pytest.raises(KeyboardInterrupt):  # while the library waits for another try
        fetched(look(REPO), SHARD)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    listing, told = look(REPO), []
    listing.fetch(weight_files(listing, [], []), told.append)
    assert [request.range for request in hub.downloads(SHARD)] == [None, "bytes=30000-"]
    assert (told[0], sum(told)) == (30_000, len(WEIGHTS))
    assert blobs(cache) == [WEIGHTS]


def _stopped(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("data", [WEIGHTS[:-1], WEIGHTS + b"x", b""], ids=["short", "long", "empty"])
def test_a_file_of_the_wrong_size_is_refused_by_name_and_forgotten(hub, cache, data):
    hub.serve_instead(NAME, SHARD, data)
    with pytest.raises(DownloadFailed, match=f"{SHARD} of {NAME} arrived"):
        fetched(look(REPO), SHARD)
    assert blobs(cache) == []
    assert fetched(look(REPO), SHARD) == {SHARD: WEIGHTS}


@pytest.mark.parametrize("file", [SHARD, "config.json"])
def test_a_file_with_one_wrong_bit_is_refused_by_name_and_forgotten(hub, cache, file):
    wrong = bytes([FILES[file][0] ^ 1]) + FILES[file][1:]
    hub.serve_instead(NAME, file, wrong)
    with pytest.raises(DownloadFailed, match=f"{file} of {NAME} arrived damaged.*again"):
        fetched(look(REPO), file)
    assert blobs(cache) == []
    assert fetched(look(REPO), file) == {file: FILES[file]}


def test_content_that_went_bad_in_the_cache_is_noticed_too(hub, cache):
    listing = look(REPO)
    [path] = listing.fetch(weight_files(listing, [], []), lambda _: None).values()
    path.resolve().write_bytes(b"x" * len(WEIGHTS))
    with pytest.raises(DownloadFailed, match="damaged"):
        fetched(listing, SHARD)
    assert fetched(listing, SHARD) == {SHARD: WEIGHTS}


@pytest.mark.parametrize(
    ("repo", "problem"),
    [
        ("org/other", "no repository org/other.*'hf auth login'"),
        (f"{NAME}@v9", f"{NAME} has no revision 'v9'"),
        ("org/a--b", "no repositories with names like"),
    ],
)
def test_what_the_hub_does_not_have_is_said_plainly(hub, repo, problem):
    with pytest.raises(SsdError, match=problem):
        look(RepoId.parse(repo))


TOKEN = "hf_verySecretToken"


@pytest.mark.parametrize("given", [None, "hf_another"])
def test_a_gated_repository_says_how_to_get_in_and_never_tells_the_token(hub, folder, cache, monkeypatch, given):
    hub.add(NAME, folder, token=TOKEN)
    if given is not None:
        monkeypatch.setenv("HF_TOKEN", given)
    listing = look(REPO)
    assert listing.gated
    with pytest.raises(DownloadFailed, match=rf"gated.*{hub.url}/{NAME}.*'hf auth login'") as raised:
        listing.fetch(small_files(listing.files), lambda _: None)
    assert given is None or given not in str(raised.value)
    assert blobs(cache) == []


def test_the_right_token_opens_a_gated_repository_and_is_kept_nowhere(hub, folder, cache, monkeypatch):
    hub.add(NAME, folder, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched(look(REPO), SHARD) == {SHARD: WEIGHTS}
    assert {request.token for request in hub.downloads(SHARD)} == {TOKEN}
    assert not [path for path in cache.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_token_that_the_hub_does_not_know_is_said_to_be_one(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", EXPIRED)
    with pytest.raises(DownloadFailed, match=r"does not accept your token.*'hf auth login'") as raised:
        look(REPO)
    assert EXPIRED not in str(raised.value)


def test_a_hub_that_cannot_be_reached_says_so_and_names_offline_mode(cache, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9", cache)
    with pytest.raises(DownloadFailed, match=r"http://127.0.0.1:9 cannot be reached.*SSD_OFFLINE=1"):
        look(REPO)


def test_an_address_that_knows_no_hub_says_what_it_answered(cache, monkeypatch, hub):
    point_at(monkeypatch, f"{hub.url}/portal", cache)
    with pytest.raises(DownloadFailed, match="status 404"):
        look(REPO)


def test_an_answer_that_is_no_listing_is_said_to_be_none(monkeypatch, hub):
    def page(*_: object, **__: object) -> None:
        json.loads("<html>Log in to this network</html>")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", page)
    with pytest.raises(DownloadFailed, match=f"{hub.url} did not answer like a Hugging Face hub"):
        look(REPO)


@pytest.mark.parametrize("switch", ["SSD_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("revision", ["main", "the commit"])
def test_offline_what_the_cache_has_is_there_and_no_request_is_made(hub, cache, monkeypatch, switch, revision):
    online = look(REPO)
    fetched(online, "config.json", SHARD)
    before = len(hub.requests)
    if switch == "SSD_OFFLINE":
        monkeypatch.setenv("SSD_OFFLINE", "1")
    else:
        point_at(monkeypatch, hub.url, cache, offline=True)
    offline = look(RepoId(NAME, online.commit) if revision == "the commit" else REPO)
    assert offline.commit == online.commit
    assert set(offline.files) == {file for file in online.files if file.name in ("config.json", SHARD)}
    assert fetched(offline, "config.json", SHARD) == {"config.json": FILES["config.json"], SHARD: WEIGHTS}
    assert len(hub.requests) == before


def test_offline_content_is_checked_all_the_same(hub, monkeypatch):
    listing = look(REPO)
    [path] = listing.fetch(weight_files(listing, [], []), lambda _: None).values()
    monkeypatch.setenv("SSD_OFFLINE", "1")
    path.resolve().write_bytes(b"x" * len(WEIGHTS))
    with pytest.raises(DownloadFailed, match="damaged"):
        fetched(look(REPO), SHARD)


def test_offline_what_the_cache_lacks_is_said_to_be_lacking(hub, monkeypatch):
    fetched(look(REPO), "config.json")
    monkeypatch.setenv("SSD_OFFLINE", "1")
    with pytest.raises(DownloadFailed, match=r"org/other is not in the hub's cache, and ssd is offline.*SSD_OFFLINE"):
        look(RepoId("org/other"))
    with pytest.raises(SsdError, match=r"lacks b.safetensors.*online"):
        weight_files(look(REPO), ["b.safetensors"], [])


def test_space_is_counted_together_where_folders_share_a_disk(tmp_path, monkeypatch):
    free = 10**9
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    there, not_yet = tmp_path, tmp_path / "to" / "be" / "made"
    check_space([(there, free // 2), (not_yet, free // 2)], "this")
    with pytest.raises(DownloadFailed, match=rf"takes 1.1 GB on the disk of {there}, which has 1 GB free.*SSD_HOME"):
        check_space([(there, free // 2), (not_yet, free // 2 + 10**8)], "this")
