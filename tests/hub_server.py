"""A local server that speaks the Hugging Face hub's protocol for repositories that are folders on the disk.

    with HubServer() as hub:
        commit = hub.add("org/name", folder)
        ssd_process("pull", "org/name", env=hub.env(tmp_path / "cache"))   # in a process of its own
        hub.serve_here(monkeypatch, tmp_path / "cache")                # or huggingface_hub in this one

What it answers is what huggingface.co answers: the listing of a commit, redirect-free files with the headers that the
cache is keyed by, ranges, and the codes of what is missing or closed. There is no Xet storage behind it.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest
import yaml

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".gguf")  # what a repository keeps in large file storage
EXPIRED = "hf_expired"  # a token that the hub does not know

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass
class Repository:
    """Commits are folders; refs are branches and tags. token: what opens the files of a gated repository."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str | None = None


@dataclass
class Fault:
    """What goes wrong with a file. data: is sent instead. drop: the connection ends after these bytes; times: left."""

    data: bytes | None = None
    drop: int | None = None
    times: int = 1


@dataclass(frozen=True)
class Request:
    """One request as it came; range: of the bytes asked for, token: whether it carried one, agent: who says to ask."""

    method: str
    path: str
    range: str | None
    token: str | None
    agent: str | None


class HubServer:
    """The server, running for the length of a `with` block; url: where."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[tuple[str, str], Fault] = {}
        self.requests: list[Request] = []
        self.ranges = True  # whether it sends parts of files

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, name: str, folder: Path, *, revision: str = "main", token: str | None = None) -> str:
        """Commit a folder's content as it is now to a branch or tag; returns the commit's sha.

        With a token the repository is gated: listed for everybody, its files only for who has this token.
        """
        repository = self.repositories.setdefault(name, Repository())
        essence = "".join(f"{path}\0{_blob_id(folder / path)}\n" for path in _files(folder))
        commit = hashlib.sha1(essence.encode()).hexdigest()
        repository.commits[commit] = folder
        repository.refs[revision] = commit
        repository.token = token
        return commit

    def drop(self, name: str, file: str, after: int, times: int = 1) -> None:
        """Cut the connection after this many bytes of each of the next answers with the file."""
        self.faults[name, file] = Fault(drop=after, times=times)

    def serve_instead(self, name: str, file: str, data: bytes, times: int = 1) -> None:
        """Answer with other bytes, as a damaged mirror would; the listing and the headers stay as they were."""
        self.faults[name, file] = Fault(data=data, times=times)

    def downloads(self, file: str) -> list[Request]:
        """The requests so far for a file's bytes."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(f"/{file}")]

    def env(self, cache: Path, **more: str) -> dict[str, str]:
        """The environment in which a process of its own finds this hub, and nothing of the user's."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "*",
            **more,
        }

    def serve_here(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let huggingface_hub find this hub in this process, which is quicker than a process of its own."""
        point_at(monkeypatch, self.url, cache)


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, *, offline: bool = False) -> None:
    """Give huggingface_hub, in this process, another endpoint and another cache."""
    from huggingface_hub import close_session, constants

    here = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in here.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    close_session()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing the server waits for its answers

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is none of the test's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """The headers of a file."""
        self._answer()

    def do_GET(self) -> None:
        """A listing or a file."""
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        hub, token = self.server.hub, (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        agent = self.headers.get("User-Agent")
        hub.requests.append(Request(self.command, unquote(path), self.headers.get("Range"), token, agent))
        found = _API.fullmatch(path) or _RESOLVE.fullmatch(path)
        if found is None:
            return self._refuse(404, "", "Sorry, we can't find the page you are looking for.")
        if token == EXPIRED:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
        repository = hub.repositories.get(parts["repo"])
        if repository is None:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        revision = parts.get("revision", "main")
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if "file" in parts:
            return self._file(parts["repo"], commit, parts["file"], token)
        return self._send(200, {}, json.dumps(_listing(parts["repo"], repository, commit)).encode())

    def _file(self, name: str, commit: str, file: str, token: str | None) -> None:
        repository = self.server.hub.repositories[name]
        if repository.token is not None and token != repository.token:
            message = f"Access to model {name} is restricted."
            return self._refuse(401 if token is None else 403, "GatedRepo", message)
        path = repository.commits[commit] / file
        if file not in _files(repository.commits[commit]):
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "ETag": f'"{_blob_id(path)}"'}
        if file.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{_sha256(path)}"', "X-Linked-Size": str(path.stat().st_size)}
        if self.command == "HEAD":
            return self._send(200, headers, path.read_bytes())
        return self._send_bytes(path.read_bytes(), headers, self._fault(name, file))

    def _fault(self, name: str, file: str) -> Fault:
        fault = self.server.hub.faults.get((name, file))
        if fault is None or fault.times == 0:
            return Fault()
        fault.times -= 1
        return fault

    def _send_bytes(self, data: bytes, headers: dict[str, str], fault: Fault) -> None:
        data = data if fault.data is None else fault.data
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None or not self.server.hub.ranges:
            return self._send(200, headers, data, fault.drop)
        start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        return self._send(206, headers, data[start:end], fault.drop)

    def _refuse(self, status: int, code: str, message: str, more: dict[str, str] | None = None) -> None:
        headers = {"X-Error-Message": message, **(more or {})} | ({"X-Error-Code": code} if code else {})
        self._send(status, headers, json.dumps({"error": message}).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes, drop: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:drop])
            self.wfile.flush()
        if drop is not None:
            self.connection.shutdown(socket.SHUT_RDWR)


def _listing(name: str, repository: Repository, commit: str) -> dict[str, Any]:
    folder = repository.commits[commit]
    return {
        "_id": "0" * 24,
        "id": name,
        "modelId": name,
        "author": name.split("/", maxsplit=1)[0],
        "sha": commit,
        "lastModified": "2026-01-02T03:04:05.000Z",
        "createdAt": "2026-01-02T03:04:05.000Z",
        "private": False,
        "gated": "manual" if repository.token is not None else False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "cardData": _card_data(folder),
        "siblings": [_sibling(folder, file) for file in _files(folder)],
    }


def _sibling(folder: Path, file: str) -> dict[str, Any]:
    path = folder / file
    entry: dict[str, Any] = {"rfilename": file, "blobId": _blob_id(path), "size": path.stat().st_size}
    if file.endswith(LARGE):
        entry["lfs"] = {"sha256": _sha256(path), "size": path.stat().st_size, "pointerSize": 135}
    return entry


def _card_data(folder: Path) -> dict[str, Any] | None:
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(front[1]) if front else None


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _blob_id(path: Path) -> str:
    """What git calls a file of this content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
