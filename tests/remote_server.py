"""A server of OpenAI's API in this process: it speaks others' dialects, fails on request, and keeps what it hears."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from ssdcli.generation.loaded_model import LoadedModel, open_model
from ssdcli.hub.remote import register_remote
from ssdcli.models.remote.address import Address
from ssdcli.registry.store import Registry

MODEL = "their/core"
Failure = tuple[int, bytes, dict[str, str]] | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class RemoteServer:
    """A server and what it was sent.

    core: the registered model that it runs. dialect: "vllm", "llama.cpp" or "sglang". most: alternatives that it tells.
    heard: method, path, headers and body of each call. failures: what it answers to the next calls instead.
    """

    core: str
    dialect: str = "vllm"
    most: int = 20
    token: str = ""
    url: str = ""
    shift: int = 0  # added to all ids that it tells
    window: int | None = None  # the longest text that it says it reads
    heard: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @cached_property
    def model(self) -> LoadedModel:
        """What it runs."""
        return open_model(Registry().find(self.core))

    @property
    def listed(self) -> dict[str, Any]:
        """Its model, as it lists it."""
        window = {} if self.window is None else {"max_model_len": self.window}
        told = {"meta": {"n_ctx": self.window, "n_ctx_train": 8192}} if self.dialect == "llama.cpp" else window
        return {"id": MODEL, "object": "model", **told}

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of its completions."""
        return [json.loads(body) for method, _, _, body in self.heard if method == "POST"]

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and the answer to a completion."""
        if body["logprobs"] > self.most and self.dialect == "vllm":
            return 400, {"error": {"message": f"Requested sample logprobs of {body['logprobs']}, at most {self.most}."}}
        model, text = self.model, body["prompt"]
        ids = [model.format.opening, *model.codec.encode(text)] if isinstance(text, str) else text
        written, tops = _written(model, ids, body["max_tokens"], min(body["logprobs"], self.most))
        said = model.codec.decode(ids + written)[len(model.codec.decode(ids)) :]
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(written)}
        choice = {"index": 0, "text": said, "finish_reason": "length", "logprobs": self._logprobs(model, written, tops)}
        return 200, {"object": "text_completion", "model": MODEL, "choices": [choice], "usage": usage}

    def _logprobs(self, model: LoadedModel, written: list[int], tops: list[dict[int, float]]) -> dict[str, Any]:
        def spelled(token: int) -> str:
            return model.codec.tokenizer.decode([token], skip_special_tokens=False)

        def entry(token: int, log_p: float) -> dict[str, Any]:
            return {"id": token + self.shift, "token": spelled(token), "bytes": [], "logprob": log_p}

        if self.dialect == "llama.cpp":
            places = zip(written, tops, strict=True)
            return {"content": [entry(w, t[w]) | {"top_logprobs": [entry(*o) for o in t.items()]} for w, t in places]}
        name = spelled if self.dialect == "sglang" else lambda token: f"token_id:{token + self.shift}"
        return {
            "tokens": [name(token) for token in written],
            "token_logprobs": [top[token] for token, top in zip(written, tops, strict=True)],
            "top_logprobs": [{name(token): log_p for token, log_p in top.items()} for top in tops],
            "text_offset": [0 for _ in written],
        }


def _written(model: LoadedModel, ids: list[int], count: int, most: int) -> tuple[list[int], list[dict[int, float]]]:
    """The likeliest next tokens, and those in the place of each."""
    written: list[int] = []
    tops: list[dict[int, float]] = []
    denoiser: Any = model.denoiser
    for _ in range(count):
        read = torch.tensor([[*ids, *written][-denoiser.context :]])
        values, tokens = denoiser.log_p(denoiser.states(read)[0, -1]).topk(most)
        tops.append({token: max(log_p, -9999.0) for token, log_p in zip(tokens.tolist(), values.tolist(), strict=True)})
        written.append(int(tokens[0]))
    return written, tops


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """End a connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def published(core: str) -> Path:
    """A folder with what the authors of a registered core say of it, without its weights."""
    entry = Registry().find(core)
    folder = entry.folder.parents[1] / f"published-{core}"
    folder.mkdir(exist_ok=True)
    for file in ("ssd.json", "tokenizer.json"):
        shutil.copy(entry.folder / file, folder)
    config = json.loads((entry.folder / "config.json").read_text()) | {"max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def pull(url: str, core: str, name: str = "far", model: str = MODEL) -> None:
    """Register the model of a server that runs a registered core."""
    address = Address.parse(f"{url}#{model}", "SSD_CORE_TOKEN")
    register_remote(address, published(core), name, Registry(), overwrite=True)


@contextmanager
def remote_server(core: str, **changes: Any) -> Iterator[RemoteServer]:
    """Run such a server."""
    state = RemoteServer(core, **changes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def _answer(self, body: bytes) -> None:
            state.heard.append((self.command, self.path, dict(self.headers.items()), body))
            if body and state.failures:
                failure = state.failures.pop(0)
                if callable(failure):
                    failure(self)
                else:
                    self._send(*failure)
                return
            if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                self._send(401, b'{"error": {"message": "Incorrect key"}}')
                return
            status, answer = state.complete(json.loads(body)) if body else (200, {"data": [state.listed]})
            self._send(status, json.dumps(answer).encode())

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
