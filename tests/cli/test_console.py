"""Who sees what: answers on standard output, the rest on standard error for those who watch."""

from __future__ import annotations

import sys

import pytest

from ssdcli.cli import app, console
from ssdcli.registry.store import Registry


@pytest.fixture(autouse=True)
def usual_mode():
    yield
    console.configure(quiet=False, debug=False)


def watch(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


def test_a_note_is_for_those_who_watch(capsys, monkeypatch):
    console.note("unseen")
    watch(monkeypatch)
    console.note("seen")
    console.configure(quiet=True, debug=False)
    console.note("silenced")
    assert capsys.readouterr() == ("", "seen\n")


def test_a_warning_is_for_everybody(capsys):
    console.configure(quiet=True, debug=False)
    console.warn("mind the gap.")
    assert capsys.readouterr() == ("", "ssd: warning: mind the gap.\n")


def test_the_terminal_is_silent_when_nobody_watches():
    assert console.terminal().quiet


def test_the_terminal_follows_quiet(monkeypatch):
    watch(monkeypatch)
    console.configure(quiet=False, debug=False)
    assert not console.terminal().quiet
    console.configure(quiet=True, debug=False)
    assert console.terminal().quiet


def test_the_terminal_obeys_no_color(monkeypatch):
    watch(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    console.configure(quiet=False, debug=False)
    assert console.terminal().no_color


def test_columns_of_a_table_are_aligned(capsys):
    console.write_table([("NAME", "FOR"), ("a-long-name", "x"), ("b", "")])
    assert capsys.readouterr().out == "NAME         FOR\na-long-name  x\nb\n"


@pytest.mark.parametrize(("flags", "said"), [([], True), (["-q"], False), (["--quiet"], False)])
def test_quiet_is_accepted_after_the_command(flags, said, monkeypatch, capsys):
    watch(monkeypatch)
    monkeypatch.setattr(Registry, "rename", lambda *_: None)
    assert app.main(["models", "rename", "old", "new", *flags]) == 0
    assert capsys.readouterr() == ("", "Renamed 'old' to 'new'.\n" if said else "")
