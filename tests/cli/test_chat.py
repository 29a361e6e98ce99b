"""`ssd chat`: turns and commands, typed or line by line, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import prompt_toolkit.output
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

import ssdcli
from ssdcli.api import Message, Options, Request, choose
from ssdcli.cli import app, console
from ssdcli.cli.conversation import COMMANDS
from ssdcli.generation.writer import Writer
from tests.pulled import add_causal
from tests.tiny import add_tiny

GIVEN = ("--seed", "3", "--max-tokens", "6")
CTRL_C, CTRL_D, NEW_LINE = "\x03", "\x04", "\x1b\r"


@pytest.fixture
def models():
    """A causal core, and two small models for it."""
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)
    add_tiny("mail", 3, kind="small", core="core", weight=0.2)


@pytest.fixture
def typed(models, monkeypatch, capsys):
    """Types at `ssd chat` in this process: lines, each with Enter, then ^D; returns its streams."""
    monkeypatch.setattr(console, "can_ask", lambda: True)
    monkeypatch.setattr(console, "is_lively", lambda: True)
    monkeypatch.setattr(prompt_toolkit.output, "create_output", lambda stdout: DummyOutput())

    def run(*lines, arguments=("--with", "notes", *GIVEN)):
        with create_pipe_input() as keyboard, create_app_session(input=keyboard):
            keyboard.send_text("".join(f"{line}\r" for line in lines) + CTRL_D)
            code = app.main(["chat", *arguments])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return run


def answer(said, seed=3, members=("notes",), tokens=6, **request):
    """What is written after these turns, the user's first, when it is asked for at once."""
    turns = tuple(Message(role, text) for role, text in zip(("user", "assistant") * len(said), said, strict=False))
    made = Request(messages=turns, **request)
    (result,) = ssdcli.load("core", members).generate_batch([made], Options(seed=seed, max_tokens=tokens))
    return result.text


def line(text):
    return text if text.endswith("\n") else f"{text}\n"


def saved(path):
    (row,) = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(turn["role"], turn["content"]) for turn in row["messages"]]


def test_turns_are_answered_with_all_before_them_each_with_the_next_seed(typed):
    out, err = typed("Dear", "", "Go on.")
    first = answer(["Dear"])
    assert out == line(first) + line(answer(["Dear", first, "Go on."], seed=4))
    assert "core 0.7, notes 0.3" in err


def test_enter_sends_and_alt_enter_begins_a_line(typed):
    out, _ = typed(f"Dear{NEW_LINE}landlord")
    assert out == line(answer(["Dear\nlandlord"]))


def test_an_interrupt_while_typing_drops_the_line(typed):
    out, _ = typed(f"No{CTRL_C}Dear")
    assert out == line(answer(["Dear"]))


def test_with_names_who_answers(typed):
    out, err = typed("/with mail=0.5", "Dear", "/with", "/retry")
    assert out == line(answer(["Dear"], members={"mail": 0.5})) + line(answer(["Dear"], seed=4, members=None))
    assert "core 0.5, mail 0.5" in err


def test_context_is_seen_by_the_private_side(typed, tmp_path):
    file = tmp_path / "a note.txt"
    file.write_text("the boiler is cold again and the stairs are dark.\n", encoding="utf-8")
    out, err = typed(f"/context '{file}'", "Dear", "/context", "/retry")
    text = file.read_text(encoding="utf-8")[:-1]
    writer = choose(None, ["notes"], context=True).open()
    asked = Request(messages=(Message("user", "Dear"),), context=text)
    (first,) = writer.generate_batch([asked], Options(seed=3, max_tokens=6))
    assert out == line(first.text) + line(answer(["Dear"], seed=4))
    assert "context:memory" in err


def test_retry_writes_another_answer_in_place_of_the_last(typed, tmp_path):
    file = tmp_path / "talk.jsonl"
    out, _ = typed("Dear", "/retry", f"/save {file}", "/retry", f"/save {file}")
    first, second, third = (answer(["Dear"], seed=seed) for seed in (3, 4, 5))
    assert len({first, second, third}) == 3
    assert out == line(first) + line(second) + line(third)
    assert saved(file) == [("user", "Dear"), ("assistant", third)]


def test_explain_colours_what_is_streamed_and_tells_shares(typed, monkeypatch):
    monkeypatch.setattr("ssdcli.cli.explanation._colourful", lambda: True)
    out, err = typed("/explain", "Dear", "/explain", "/retry")
    first, second = answer(["Dear"]), answer(["Dear"], seed=4)
    coloured = out.removesuffix(line(second))
    assert len(coloured) < len(out)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == line(first)
    assert "\x1b[" in coloured
    assert err.count("attribution: ") == 1


def test_help_lists_every_command(typed):
    out, err = typed("/help")
    assert not out
    commands = err[err.index("/with") :].splitlines()
    assert [line.split()[0] for line in commands] == [f"/{name}" for name in COMMANDS]
    assert {"/context", "/explain", "/retry", "/save", "/help", "/quit"} <= {line.split()[0] for line in commands}


def test_quit_ends_it(typed):
    out, _ = typed("/quit", "Dear")
    assert not out


def test_what_is_saved_is_read_by_batch_and_by_training(typed, tmp_path, capsys):
    """With the system text; a file of something else is not replaced."""
    file, other = tmp_path / "talk.jsonl", tmp_path / "other.jsonl"
    other.write_text("mine", encoding="utf-8")
    arguments = ("--with", "notes", "--system", "Be brief.", *GIVEN)
    _, err = typed(f"/save {file}", "Dear", f"/save {other}", f"/save {file}", arguments=arguments)
    assert "there is no answer yet" in err
    assert f"{str(other)!r} exists. Name another file." in err
    assert other.read_text(encoding="utf-8") == "mine"
    assert [role for role, _ in saved(file)] == ["system", "user", "assistant"]
    assert app.main(["generate", "--batch", str(file), "--with", "notes", *GIVEN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "Dear"
    assert app.main(["train-small", str(file), "--for", "core", "--name", "new", "--dry-run"]) == 0
    assert "read 1 conversation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/wiht mail", "there is no command '/wiht'. Did you mean 'with'? /help lists the commands"),
        ("/", "there is no command '/'."),
        ("/with nobody", "no model named 'nobody'"),
        ("/with notes=much", "--with notes=much: 'much' is not a weight"),
        ("/context nowhere.txt", "the context file 'nowhere.txt' cannot be read"),
        ("/retry now", "/retry is not used like this. Write /retry."),
        ("/retry", "there is no answer yet. Say something first."),
        ("/save", "/save is not used like this. Write /save FILE."),
        ("/save 'a", "a quote is not closed"),
    ],
)
def test_what_is_wrong_is_said_and_the_conversation_goes_on_as_it_was(typed, command, said):
    out, err = typed(command, "Dear")
    assert f"ssd: {said}" in err
    assert out == line(answer(["Dear"]))


def test_a_turn_that_begins_with_a_slash_has_a_space_before_it(typed):
    out, _ = typed(" /etc")
    assert out == line(answer(["/etc"]))


def interrupt_after(monkeypatch, pieces):
    """Press ^C during the first answer, after so many pieces of it."""
    write, left = Writer.write, [pieces]

    def interrupted(self, rows, options):
        for place, piece in write(self, rows, options):
            if left and not left[0]:
                left.clear()
                signal.raise_signal(signal.SIGINT)
            if left:
                left[0] -= 1
            yield place, piece

    monkeypatch.setattr(Writer, "write", interrupted)


def test_an_interrupted_answer_is_kept_as_far_as_it_came(typed, monkeypatch, tmp_path):
    interrupt_after(monkeypatch, 1)
    file = tmp_path / "talk.jsonl"
    out, err = typed(
        "Dear", f"/save {file}", "Go on.", arguments=("--with", "notes", "--seed", "3", "--max-tokens", "20")
    )
    whole = answer(["Dear"], tokens=20)
    (_, (_, kept)) = saved(file)
    assert whole.startswith(kept)
    assert 0 < len(kept) < len(whole)
    assert out == line(kept) + line(answer(["Dear", kept, "Go on."], seed=4, tokens=20))
    assert "ssd: interrupted." in err


def test_a_turn_that_was_interrupted_before_it_was_answered_is_dropped(typed, monkeypatch, tmp_path):
    interrupt_after(monkeypatch, 0)
    file = tmp_path / "talk.jsonl"
    typed("No", "Dear", f"/save {file}")
    assert saved(file)[0] == ("user", "Dear")


def test_warnings_and_stats_are_told_after_an_answer(typed):
    _, err = typed("Dear", arguments=("--with", "notes", *GIVEN, "--stats"))
    assert "seed 3; " in err


def test_lines_of_standard_input_are_turns(models, run_ssd):
    """Answers are separated as by generate; the first error ends it."""
    given = ("chat", "--with", "notes", *GIVEN)
    done = run_ssd(*given, stdin="Dear\n/with mail\nGo on.")
    first = answer(["Dear"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == line(first) + "---\n" + line(answer(["Dear", first, "Go on."], seed=4, members=["mail"]))
    done = run_ssd(*given, stdin="/with nobody\nDear\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no model named 'nobody'" in done.stderr


def test_what_is_not_installed_is_told_of(models, monkeypatch, capsys):
    monkeypatch.setattr(console, "can_ask", lambda: True)
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    assert app.main(["chat", "--with", "notes"]) == 2
    assert "pip install 'ssdcli[chat]'" in capsys.readouterr().err


def test_nothing_is_kept_unless_asked(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def files():
        return {path for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    typed("Dear landlord")
    assert files() == before


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_it_runs_in_a_real_terminal(models, tmp_path):
    """Typed, edited, interrupted and left, as a person sees it."""
    command = f"{sys.executable} -m ssdcli chat --with notes --seed 3 --max-tokens 6; echo code $?; sleep 600"
    with Screen(tmp_path, command) as screen:
        screen.wait_for(r"core 0\.7, notes 0\.3[\s\S]*\n>$")
        screen.press("Deer", "BSpace", "BSpace", "a", "r", "Escape", "Enter", "landlord", "Enter")
        screen.wait_for(r"> Dear\n +landlord\n[\s\S]+\n>$")
        screen.press("Up")
        screen.wait_for(r"> Dear\n +landlord$")
        screen.press("C-c")
        screen.wait_for(r"\n>$")
        screen.press("/save talk.jsonl", "Enter")
        screen.wait_for(r"saved in talk\.jsonl\n>$")
        screen.press("/with nobody", "Enter")
        screen.wait_for(r"ssd: no model named 'nobody'[\s\S]*\n>$")
        screen.press("C-d")
        screen.wait_for(r"code 0")
    assert [text for _, text in saved(tmp_path / "talk.jsonl")] == ["Dear\nlandlord", answer(["Dear\nlandlord"])]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_an_answer_is_interrupted_in_a_real_terminal(tmp_path):
    """The core never ends by itself."""
    add_causal("core", ends=())
    command = f"{sys.executable} -m ssdcli chat --core core --seed 3 --max-tokens 1000000; echo code $?; sleep 600"
    with Screen(tmp_path, command) as screen:
        screen.wait_for(r"\n>$")
        screen.press("Dear", "Enter")
        screen.wait_for(r"> Dear\n(?!\S writing)[\s\S]*\S")
        screen.press("C-c")
        screen.wait_for(r"\nssd: interrupted\.\n>$")
        screen.press("/save talk.jsonl", "Enter")
        screen.wait_for(r"saved in talk\.jsonl\n>$")
        screen.press("C-d")
        screen.wait_for(r"code 0")
    (_, kept) = saved(tmp_path / "talk.jsonl")[1]
    assert kept.startswith(answer(["Dear"], members=None))


class Screen:
    """A command in a terminal of 80 by 24 that nobody sees."""

    def __init__(self, folder: Path, command: str) -> None:
        """The terminal's server is this test's own."""
        self._tmux = ["tmux", "-f", "/dev/null", "-L", f"ssd-test-{os.getpid()}"]
        self._call("new-session", "-d", "-x", "80", "-y", "24", "-c", str(folder), command)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._call("kill-server")

    def press(self, *keys):
        self._call("send-keys", *keys)

    def wait_for(self, pattern, seconds=120):
        """Wait until the screen matches."""
        end = time.monotonic() + seconds
        while not re.search(pattern, seen := self._call("capture-pane", "-p").rstrip()):
            assert time.monotonic() < end, seen
            time.sleep(0.2)

    def _call(self, *arguments):
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout
