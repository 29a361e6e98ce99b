"""`ssd generate` as it is typed, for tests that have no other `ssd`."""

from __future__ import annotations

import io
import json
import sys

import pytest

from ssdcli.cli import app
from tests.terminal import Terminal
from tests.tiny import add_family


@pytest.fixture
def family():
    add_family()


@pytest.fixture
def ssd(monkeypatch, capsys):
    """Runs `ssd generate` in this process; `stdin=None` is a terminal that nobody types at."""

    def run(*arguments, stdin=None):
        given = Terminal() if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", given)
        code = app.main(["generate", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def answer(family, ssd):
    """The JSON objects that `ssd generate` writes."""

    def run(*arguments, stdin=None):
        code, out, err = ssd(*arguments, "--json", stdin=stdin)
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.fixture
def refused(ssd):
    """What `ssd generate` says when it ends with code 2 before it has written anything."""

    def run(*arguments, stdin=None):
        code, out, err = ssd(*arguments, stdin=stdin)
        assert (code, out) == (2, "")
        assert err.startswith("ssd: ")
        assert err.count("\n") == 1
        return err.removeprefix("ssd: ").rstrip()

    return run
