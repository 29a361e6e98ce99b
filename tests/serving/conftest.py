"""A server in this process, with the real client, beside tiny models."""

from __future__ import annotations

import os

os.environ["LLM_LOAD_PLUGINS"] = ""  # read when llm is imported: other plugins that are installed stay out

import http.client
import json
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import openai
import pytest

from ssdcli.registry.store import Registry
from ssdcli.serving.endpoint import Server
from ssdcli.serving.worker import Worker
from tests.pulled import add_causal
from tests.tiny import VOCABULARY, add_tiny, tiny_tokenizer


class Running:
    """A server that listens on a port of its own."""

    def __init__(self, port: int, worker: Worker, opened: ExitStack) -> None:
        self._opened = opened
        self.port = port
        self.worker = worker
        self.url = f"http://127.0.0.1:{port}/v1"

    def client(self, token: str = "none", timeout: float = 120) -> openai.OpenAI:
        """A client that tries once."""
        client = openai.OpenAI(base_url=self.url, api_key=token, max_retries=0, timeout=timeout)
        return self._opened.enter_context(client)

    def raw(self, path, body=None, **headers):
        """The status and the JSON or text that a path answers; bytes and text are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        given = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request("GET" if body is None else "POST", path, data, given)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def until(holds, seconds=60):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def serving():
    """Starts a server: `with serving(parallel=1) as server`."""

    @contextmanager
    def start(token=None, **limits):
        worker = Worker(Registry(), **limits)
        server = Server(worker, token)
        listening = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            with ExitStack() as opened:
                yield Running(listening.getsockname()[1], worker, opened)
        finally:
            server.should_exit = True
            thread.join()
            listening.close()

    return start


@pytest.fixture
def server(serving):
    with serving() as running:
        yield running


@pytest.fixture
def family():
    """A causal core, and a small model for it."""
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)


@pytest.fixture
def endless():
    """A causal core whose texts do not end by themselves."""
    add_causal("core", suppressed=(0, 1, 2, *range(tiny_tokenizer().get_vocab_size(), VOCABULARY)))
