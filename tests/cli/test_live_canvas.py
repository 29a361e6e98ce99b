"""`--watch`: the canvas as it is denoised, on standard error, and the same text on standard output."""

from __future__ import annotations

import io
import math
import re
from functools import cache

import pytest
from rich.console import Console

from ssdcli.api import Options, Request, load
from ssdcli.cli import console
from ssdcli.cli.live_canvas import NOISE, on_canvas
from ssdcli.generation.trace import Glimpse
from tests.pulled import add_causal
from tests.tiny import add_tiny

FAST = ("--max-tokens", "10", "--steps", "5", "--seed", "5")


@pytest.fixture
def screen(monkeypatch):
    """A terminal for standard error: what was drawn on it, without escapes."""
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=40, height=8, legacy_windows=False)
    monkeypatch.setattr(console, "is_lively", lambda: True)
    monkeypatch.setattr(console, "terminal", cache(lambda: terminal))
    return drawn


def test_tokens_appear_among_noise_and_the_text_is_the_same(family, ssd, screen):
    plain = ssd("Dear", "--with", "notes", *FAST)
    assert NOISE not in screen.getvalue()
    code, out, _ = ssd("Dear", "--with", "notes", *FAST, "--watch")
    assert (code, out) == plain[:2]
    frames = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    assert NOISE in frames
    assert out.split()[0] in frames


def test_with_explain_the_parts_have_the_colours_of_members(family, ssd, screen):
    assert ssd("Dear", "--with", "notes", *FAST, "--watch", "--explain")[0] == 0
    assert re.search(r"\x1b\[3[36]m\S", screen.getvalue())


def test_a_watcher_sees_tokens_stay_and_the_canvas_fill(family):
    writer, seen = load("big", ["notes"]), []
    (row,) = writer.rows([Request("Dear")], options := Options(max_tokens=10, seed=5))
    row.watch = seen.append
    *_, (_, last) = writer.write([row], options)
    assert last.result.text == writer.generate("Dear", options).text
    hidden = [sum(token is None for token in glimpse.tokens) for glimpse in seen]
    assert hidden[0] > 0
    assert hidden[-1] == 0


def test_beside_a_causal_core_it_fills_from_the_left():
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)
    writer, seen = load("core", ["notes"]), []
    (row,) = writer.rows([Request("Dear")], options := Options(max_tokens=10, seed=5, explain=True))
    row.watch = seen.append
    list(writer.write([row], options))
    for glimpse in seen:
        known = [token is not None for token in glimpse.tokens]
        assert known == sorted(known, reverse=True)
        assert all(len(shares) == 2 for shares in glimpse.shares)


def test_noise_and_parts_of_characters_have_their_places():
    def decode(ids):
        return bytes(ids).decode("utf-8", "replace")

    first, second = "é".encode()
    unknown = (math.nan, math.nan)
    shares = [(0.2, 0.8), unknown, unknown, (0.9, 0.1), (0.6, 0.4)]
    glimpse = Glimpse([ord("a"), None, None, first, second], shares)
    assert list(on_canvas(glimpse, decode)) == [("a", 1), (NOISE * 2, None), ("", 0), ("é", 0)]
    assert next(iter(on_canvas(glimpse, decode, others=1))) == ("a", 2)


def test_off_a_terminal_it_says_that_it_shows_nothing(family, ssd):
    code, out, err = ssd("Dear", *FAST, "--core", "big", "--watch")
    assert (code, out) == ssd("Dear", *FAST, "--core", "big")[:2]
    assert err == "ssd: warning: --watch shows nothing, since standard error is not a terminal.\n"


@pytest.mark.parametrize("more", [("--n", "2"), ("--batch", "-")])
def test_several_texts_are_refused(family, refused, more):
    prompt = () if "--batch" in more else ("Dear",)
    assert refused(*prompt, *more, "--watch").startswith("--watch shows a single text.")
