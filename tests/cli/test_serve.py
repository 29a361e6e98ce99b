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
from tests.tiny import add_family


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_answers_until_it_is_interrupted(host):
    """Where others can reach it, only who has the token that it shows."""
    add_family()
    command = [sys.executable, "-m", "ssdcli", "serve", "--port", "0", "--host", host]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        port = int(re.search(r":(\d+)/v1", server.stderr.readline())[1])
        token = "" if host == "127.0.0.1" else server.stderr.readline().removeprefix("token: ").strip()
        assert bool(token) == (host == "0.0.0.0")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        body = {"model": "notes", "prompt": "Dear", "max_tokens": 4}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["choices"])) == (200, 1)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == (401 if token else 200)
        connection.close()
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
        assert (out, err) == ("", "ssd: interrupted.\n")
        assert server.returncode == 130


def test_a_port_that_is_taken_is_told_of(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert app.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "Name another --host or --port" in capsys.readouterr().err


def test_what_is_not_installed_is_told_of(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert app.main(["serve"]) == 2
    assert "pip install 'ssdcli[serve]'" in capsys.readouterr().err
