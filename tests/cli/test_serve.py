"""`ssd serve` as a process: where it listens, who is let in, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from ssdcli.cli import app
from ssdcli.serving import endpoint
from tests.tiny import add_family


def test_it_answers_until_it_is_interrupted():
    """Where others can reach it, only who has the token that it shows."""
    add_family()
    command = [sys.executable, "-m", "ssdcli", "serve", "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        port = int(re.search(r":(\d+)/v1", server.stderr.readline())[1])
        token = server.stderr.readline().removeprefix("token: ").strip()
        assert len(token) > 20
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        body = {"model": "notes", "prompt": "Dear", "max_tokens": 4}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["choices"])) == (200, 1)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 401
        connection.close()
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60) == ("", "ssd: interrupted.\n")
        assert server.returncode == 130


@pytest.mark.parametrize(
    ("flags", "token"),
    [((), None), (("--host", "localhost"), None), (("--token", "sesame"), "sesame")],
)
def test_on_this_machine_alone_a_token_is_needed_only_if_one_is_given(flags, token, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(endpoint, "Server", lambda worker, told: given.append(told) or Quiet())
    assert app.main(["serve", "--port", "0", *flags]) == 0
    assert given == [token]
    assert "sesame" not in capsys.readouterr().err


class Quiet:
    """A server that ends at once."""

    def run(self, sockets):
        assert len(sockets) == 1


def test_a_port_that_is_taken_is_told_of(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert app.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Name another --host or --port" in capsys.readouterr().err


def test_what_is_not_installed_is_told_of(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "ssdcli.serving.endpoint", raising=False)
    assert app.main(["serve"]) == 2
    assert "pip install 'ssdcli[serve]'" in capsys.readouterr().err
