"""Who sees what: answers on standard output, the rest on standard error for those who watch."""

from __future__ import annotations

import io
import sys
from functools import cache

import pytest
from rich.console import Console

from ssdcli.cli import app, console
from ssdcli.registry.store import Registry
from tests.terminal import Terminal


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


@pytest.fixture
def screen(monkeypatch):
    """A terminal for standard error: what was drawn on it."""
    drawn = io.StringIO()
    drawer = Console(file=drawn, force_terminal=True, width=40, legacy_windows=False)
    monkeypatch.setattr(console, "is_lively", lambda: True)
    monkeypatch.setattr(console, "terminal", cache(lambda: drawer))
    return drawn


def test_what_a_wait_is_for_is_told_where_somebody_watches(screen, capsys, monkeypatch):
    with console.waiting("loading"):
        pass
    told = screen.getvalue()
    assert "loading" in told
    monkeypatch.setattr(console, "is_lively", lambda: False)
    with console.waiting("loading"):
        pass
    assert screen.getvalue() == told
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("told", [console.begun, console.awaited])
def test_between_the_waits_standard_output_gets_each_item(told, screen, capsys):
    waited: list[bool] = []
    for item in told(iter("abc"), "writing"):
        waited.append("writing" in screen.getvalue())
        screen.truncate(0)
        console.write(item)
    assert capsys.readouterr().out == "a\nb\nc\n"
    assert waited == ([True, False, False] if told is console.begun else [True] * 3)


def test_the_models_are_loaded_while_it_is_told(screen, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert app.main(["generate", "Dear", "--core", "starter", "--max-tokens", "2"]) == 0
    assert "loading" in screen.getvalue()
    assert capsys.readouterr().out.strip()


def test_columns_of_a_table_are_aligned(capsys):
    console.write_table([("NAME", "FOR"), ("a-long-name", "x"), ("b", "")])
    assert capsys.readouterr().out == "NAME         FOR\na-long-name  x\nb\n"


@pytest.mark.parametrize(("flags", "said"), [([], True), (["-q"], False), (["--quiet"], False)])
def test_quiet_is_accepted_after_the_command(flags, said, monkeypatch, capsys):
    watch(monkeypatch)
    monkeypatch.setattr(Registry, "rename", lambda *_: None)
    assert app.main(["models", "rename", "old", "new", *flags]) == 0
    assert capsys.readouterr() == ("", "Renamed 'old' to 'new'.\n" if said else "")
