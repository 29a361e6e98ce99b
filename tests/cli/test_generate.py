"""`ssd generate`: its streams, its input, its flags and its codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time

import pytest

from ssdcli.api import Blend, Options, load
from ssdcli.cli import app, console, explanation, inputs
from ssdcli.registry.store import Registry
from tests.tiny import ROOM, add_family, add_tiny

FAST = ["--max-tokens", "10", "--steps", "2", "--seed", "5"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


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


def text_of(prompt, core="big", members=None, **changes):
    return load(core, members).generate(prompt, max_tokens=10, steps=2, **{"seed": 5, **changes}).text


# The answer


def test_standard_output_is_the_text_and_a_line_end(family, run_ssd):
    done = run_ssd("generate", "Dear", "--with", "notes", *FAST)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == text_of("Dear", None, ["notes"]) + "\n"


def test_text_is_written_as_it_is_committed(family, ssd, monkeypatch):
    written = []
    monkeypatch.setattr("ssdcli.cli.console.write", lambda text, end="\n": written.append(text + end))
    assert ssd("Dear", "--core", "big", *FAST) == (0, "", "")
    assert len(written) > 2
    assert "".join(written) == text_of("Dear") + "\n"


def test_json_has_the_shape_that_is_promised(answer):
    (told,) = answer("Dear", "--with", "notes=0.4", *FAST)
    seconds, speed = told.pop("seconds"), told.pop("tokens_per_second")
    assert seconds > 0
    assert speed == pytest.approx(10 / seconds)
    assert all(member.pop("flops") > 0 for member in told["members"])
    assert told == {
        "id": 0,
        "prompt": "Dear",
        "text": text_of("Dear", "big", {"notes": 0.4}),
        "finish_reason": "length",
        "seed": 5,
        "core": "big",
        "members": [
            {"name": "big", "role": "core", "weight": 0.6, "forward_passes": 4},
            {"name": "notes", "role": "small", "weight": 0.4, "forward_passes": 4},
        ],
        "tokens": 10,
        "steps": 4,
        "flops_saved": 0.0,
        "plain": True,
    }


def test_several_texts_are_parted_by_dashes_or_are_lines_of_json(family, ssd, answer):
    texts = [text_of("Dear", seed=seed) for seed in (5, 6)]
    assert ssd("Dear", "--core", "big", "--n", "2", *FAST)[1] == f"{texts[0]}\n---\n{texts[1]}\n"
    told = answer("Dear", "--core", "big", "--n", "2", *FAST)
    assert [(one["text"], one["seed"]) for one in told] == [(texts[0], 5), (texts[1], 6)]


def test_a_drawn_seed_is_told_and_reproduces_the_text(answer, ssd):
    (told,) = answer("Dear", "--core", "big", "--max-tokens=10", "--steps=2")
    again = ssd("Dear", "--core=big", "--max-tokens=10", "--steps=2", f"--seed={told['seed']}")
    assert again == (0, told["text"] + "\n", "")


def test_no_tokens_are_an_empty_answer(answer, ssd):
    assert ssd("Dear", "--core", "big", "--max-tokens", "0") == (0, "\n", "")
    (told,) = answer("Dear", "--core", "big", "--max-tokens", "0")
    assert (told["text"], told["finish_reason"], told["tokens"]) == ("", "length", 0)


def test_stop_strings_end_the_text(answer):
    (whole,) = answer("Dear", "--core", "big", *FAST)
    character = whole["text"][1]
    (told,) = answer("Dear", "--core", "big", "--stop", character, "--stop", "never", *FAST)
    assert told["finish_reason"] == "stop"
    assert told["text"] == whole["text"].partition(character)[0]


def test_stats_tell_seed_passes_and_speed_on_standard_error(family, ssd):
    code, out, err = ssd("Dear", "--with", "notes", "--stats", *FAST)
    assert (code, out) == (0, text_of("Dear", None, ["notes"]) + "\n")
    said = r"seed 5; 10 tokens in \S+ s \(\S+ a second\); forward passes: big \(0\.7\) 4, notes \(0\.3\) 4; about big "
    pattern = said + r"\d+\.\d+ MFLOP, notes \d+\.\d+ MFLOP"
    assert re.fullmatch(pattern + r"\n", err)
    _, _, err = ssd("Dear", "--with", "notes", "--stats", "--schedule", "sandwich:0.5", *FAST, "--steps", "4")
    assert re.search(r"big \(0 to 0\.7\) 4, notes \(0\.3\) 8; .* [1-4]\d\.\d% saved by the schedule\n", err)


def test_stats_tell_the_weights_of_a_schedule_in_a_file(family, ssd, tmp_path):
    (tmp_path / "mine.toml").write_text("notes = [[1, 0.9], [0, 0.1]]\nbig = [[1, 0.5]]\n")
    _, _, err = ssd("Dear", "--with", "notes", "--stats", "--schedule", str(tmp_path / "mine.toml"), *FAST)
    assert "forward passes: big (0.5) 4, notes (0.1 to 0.9) 4;" in err


def test_a_text_is_coloured_where_a_terminal_shows_it(family, ssd, monkeypatch):
    text = text_of("Dear", None, ["notes"])
    why = (
        "ssd: warning: --explain shows no colours, since standard output is not a terminal; add --json for the numbers."
    )
    assert ssd("Dear", "--with", "notes", "--explain", *FAST) == (0, text + "\n", why + "\n")
    assert ssd("Dear", "--with", "notes", "--explain", "--json", *FAST)[2] == ""
    monkeypatch.setattr(explanation, "_colourful", lambda: True)
    monkeypatch.setattr(console, "is_lively", lambda: True)
    _, out, err = ssd("Dear", "--with", "notes", "--explain", *FAST)
    assert re.sub(r"\x1b\[\d+m", "", out) == text + "\n"
    assert {"\x1b[36m", "\x1b[33m"} >= set(re.findall(r"\x1b\[3\dm", out)) != set()
    assert re.fullmatch(r"attribution: big: \d+%, notes: \d+%\n", re.sub(r"\x1b\[\d+m", "", err))


def test_what_stands_around_a_gap_has_no_colour(family, ssd, monkeypatch):
    flags = ["Dear ____ is dark.", "--core", "big", "--infill", "--gap", "3", *FAST]
    plain = ssd(*flags)
    monkeypatch.setattr(explanation, "_colourful", lambda: True)
    assert ssd(*flags, "--explain") == plain


def test_a_core_that_is_not_run_is_owed_nothing(family, ssd, monkeypatch):
    monkeypatch.setattr(console, "is_lively", lambda: True)
    _, _, err = ssd("Dear", "--with", "notes=1", "--explain", *FAST)
    assert err.endswith("\nattribution: big: 0%, notes: 100%\n")


def test_no_colour_is_obeyed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert explanation._colourful()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not explanation._colourful()


def test_the_gaps_of_a_prompt_are_filled(answer, ssd):
    (told,) = answer("Dear ____ is dark.", "--core", "big", "--infill", "--gap", "3", *FAST)
    assert re.fullmatch(r"(?s)Dear.* is dark\.", told["text"])
    assert told["tokens"] <= 3
    assert ssd("Dear ____ is dark.", "--core", "big", "--infill", "--gap=3", *FAST) == (0, told["text"] + "\n", "")


def test_rules_schedules_and_samplers_are_the_writers_own(answer, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("big = [[1, 0.2], [0, 0.9]]\n")
    flags = ["--rule", "average", "--schedule", str(plan), "--sampler", "threshold=0.3", "--remask", "0.1"]
    (told,) = answer("Dear", "--with", "notes", *flags, *FAST)
    writer = load(None, ["notes"], blend=Blend("average", str(plan)))
    options = Options(max_tokens=10, steps=2, seed=5, sampler="threshold=0.3", remask=0.1)
    assert told["text"] == writer.generate("Dear", options).text


def test_a_cut_prompt_is_warned_of(family, ssd):
    code, _, err = ssd(" dark" * 100, "--core", "big", *FAST)
    assert code == 0
    assert err.startswith(f"ssd: warning: 'big' has room for {ROOM} tokens before its answer and leaves out")


def test_a_closed_pipe_ends_quietly(family):
    command = [sys.executable, "-m", "ssdcli", "generate", "Dear", "--core", "big", "--max-tokens", "4000"]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "--steps", "1"], **streams)
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=120) in (0, 141)


# The input


@pytest.mark.parametrize(
    ("argument", "stdin", "prompt"),
    [
        (["Dear"], None, "Dear"),
        (["Dear"], b"", "Dear"),
        ([], b"Dear\n", "Dear"),
        ([], b"Dear\n\n", "Dear\n"),
        ([], b"Dear\r\n", "Dear"),
        (["Dear"], b"the boiler\n", "the boiler\n\nDear"),
        ([], "\ufeffé\n".encode(), "é"),
        ([], None, ""),
        ([], b"", ""),
    ],
)
def test_the_prompt_is_standard_input_and_then_the_argument(answer, argument, stdin, prompt):
    (told,) = answer(*argument, "--core", "big", *FAST, stdin=stdin)
    assert told["prompt"] == prompt
    assert told["text"] == text_of(prompt)


def test_a_closed_standard_input_is_none(answer, monkeypatch):
    monkeypatch.setattr(inputs.sys, "stdin", None)
    assert inputs.read_prompt("Dear") == "Dear"
    assert inputs.read_requests(None, "-", ()) == []


def test_a_silent_standard_input_is_waited_for_with_a_word(monkeypatch, capsys):
    ours, theirs = os.pipe()
    monkeypatch.setattr(inputs, "PATIENCE", 0.01)
    monkeypatch.setattr(sys, "stdin", os.fdopen(ours))
    said = []

    def say(sentence):
        said.append(sentence)
        os.write(theirs, b"Dear\n")
        os.close(theirs)

    monkeypatch.setattr("ssdcli.cli.console.warn", say)
    assert inputs.read_prompt(None) == "Dear"
    assert said == ["waiting for standard input; ^D or '< /dev/null' ends it."]
    sys.stdin.close()


def test_a_quick_standard_input_is_read_without_a_word(monkeypatch):
    monkeypatch.setattr(inputs, "PATIENCE", 0.2)
    said = []
    monkeypatch.setattr("ssdcli.cli.console.warn", said.append)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Dear")))
    inputs.read_prompt(None)
    time.sleep(0.3)
    assert said == []


def test_input_in_another_encoding_is_read_with_a_warning(family, ssd):
    code, out, err = ssd("--core", "big", "--json", *FAST, stdin=b"caf\xe9\n")
    assert (code, json.loads(out)["prompt"]) == (0, "café")
    assert err == "ssd: warning: standard input is not in UTF-8; it was read as windows-1252.\n"
    code, out, err = ssd("--core", "big", "--json", *FAST, stdin="é ü\ufffd".encode() + b"\xff ")
    assert (code, json.loads(out)["prompt"]) == (0, "é ü\ufffd\ufffd ")
    assert err == "ssd: warning: 1 invalid character of standard input had to be replaced.\n"


def test_context_files_are_put_before_the_prompt_for_small_models(answer, tmp_path):
    (tmp_path / "one").write_text("the boiler\n")
    (tmp_path / "two").write_text("is cold\n")
    files = ["--context", str(tmp_path / "one"), "--context", str(tmp_path / "two")]
    (told,) = answer("Dear", "--core", "none", "--with", "notes", *files, *FAST)
    assert told["prompt"] == "Dear"
    assert told["text"] == text_of("the boiler\n\nis cold\n\nDear", "none", ["notes"])


def test_a_batch_is_answered_line_by_line_in_order(answer, tmp_path):
    (tmp_path / "context").write_text("cold\n")
    lines = [
        {"prompt": "Dear"},
        {"prompt": "the stairs are dark", "id": "stairs", "seed": 9},
        {"prompt": "Dear", "id": 7, "context": "the boiler"},
    ]
    batch = "\n".join(map(json.dumps, lines)) + "\n\n"
    (tmp_path / "prompts.jsonl").write_text(batch)
    flags = ["--core", "none", "--with", "notes", "--context", str(tmp_path / "context"), *FAST]
    told = answer("--batch", str(tmp_path / "prompts.jsonl"), *flags)
    assert [(one["id"], one["seed"]) for one in told] == [(0, 5), ("stairs", 9), (7, 7)]
    writer = load("none", ["notes"])
    texts = [
        writer.generate(one["prompt"], context=context, seed=one["seed"], max_tokens=10, steps=2).text
        for one, context in zip(told, ["cold", "cold", "cold\n\nthe boiler"], strict=True)
    ]
    assert [one["text"] for one in told] == texts
    again = answer("--batch", "-", *flags, stdin=batch.encode())
    assert [one["text"] for one in again] == texts


def test_a_conversation_of_a_batch_is_gone_on_from(answer):
    said = [("system", "Be brief."), ("user", "Dear"), ("assistant", "the boiler"), ("user", "is dark")]
    lines = [
        {"messages": [{"role": role, "content": content} for role, content in said]},
        {"messages": [{"role": role, "content": content} for role, content in said[1:3]], "system": "Be brief."},
        {"prompt": "Dear", "system": "the stairs"},
        {"prompt": "Dear"},
    ]
    batch = "\n".join(json.dumps(line | {"seed": 5}) for line in lines).encode()
    told = answer("--batch", "-", "--core", "big", "--system", "cold", *FAST, stdin=batch)
    assert [one["prompt"] for one in told] == ["is dark", "Dear", "Dear", "Dear"]
    plain = ["Be brief.\n\nDear\n\nthe boiler\n\nis dark", "Be brief.\n\nDear\n\nthe boiler"]
    plain += ["the stairs\n\nDear", "cold\n\nDear"]
    assert [one["text"] for one in told] == [text_of(prompt) for prompt in plain]
    assert set(told[0]) == set(told[3])


def test_a_batch_takes_what_training_takes(tmp_path):
    said = {"role": "user", "content": [{"type": "text", "text": "Dear"}], "name": "ada"}
    rows = [
        {"messages": [said]},
        {"conversations": [{"from": "human", "value": "Dear"}], "id": "x"},
        {"instruction": "Greet.", "input": "Dear", "output": "Hello"},
        {"prompt": "Dear", "completion": " x", "seed": 3},
    ]
    tool = [said, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "rain"}]
    rows.append({"messages": [{"role": "developer", "content": "Be brief."}, *tool]})
    forms = {
        "lines.jsonl": "\n".join(map(json.dumps, rows)),
        "array.json": json.dumps(rows, indent=1),
        "commas.jsonl": "[\n" + ",\n".join(map(json.dumps, rows)) + ",\n]\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    first, *others = [inputs.read_requests(None, str(tmp_path / name), ()) for name in forms]
    assert all(found == first for found in others)
    assert [request.asked for request in first] == ["Dear", "Dear", "Greet.\n\nDear", "Dear", "Dear\n\nrain"]
    assert (first[1].id, first[3].seed, first[4].turns[0].role) == ("x", 3, "system")
    (tmp_path / "table.csv").write_text("prompt;id\nDear;7\n", encoding="utf-16")
    assert [(request.asked, request.id) for request in inputs.read_requests(None, str(tmp_path / "table.csv"), ())] == [
        ("Dear", "7")
    ]


def test_a_system_text_is_a_flag_a_variable_and_a_key_of_recipes(answer, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('system = "cold"\n')
    flags = ["Dear", "--core", "big", *FAST]
    texts = [answer(*flags, "--system", "cold"), answer(*flags, "--recipe", str(tmp_path / "mine.toml"))]
    monkeypatch.setenv("SSD_SYSTEM", "cold")
    texts.append(answer(*flags))
    assert [told["text"] for (told,) in texts] == [text_of("cold\n\nDear")] * 3
    (told,) = answer(*flags, "--system", "Be brief.")
    assert (told["prompt"], told["text"]) == ("Dear", text_of("Be brief.\n\nDear"))


def test_a_model_of_conversations_reads_a_prompt_as_text_when_told_to(answer, tmp_path, monkeypatch):
    """By a flag, a variable, a recipe or a line of a batch; its twin of the same weights learned documents."""
    fields = {"kind": "small", "core": "big", "begin": 0}
    add_tiny("taught", 4, **fields, format="turns")
    add_tiny("twin", 4, **fields)
    flags = ["--core", "none", "--with", "taught", *FAST]
    (as_text,) = answer("Dear", "--core", "none", "--with", "twin", *FAST)
    (as_question,) = answer("Dear", *flags)
    assert (as_question["text"], as_question["plain"]) == (text_of("Dear\n\n", "none", ["twin"]), False)
    assert as_text["text"] != as_question["text"]
    (tmp_path / "mine.toml").write_text("plain = true\n")
    found = answer("Dear", *flags, "--plain") + answer("Dear", *flags, "--recipe", str(tmp_path / "mine.toml"))
    found += answer("--batch", "-", *flags, "--no-plain", stdin=b'{"prompt": "Dear", "plain": true}')
    monkeypatch.setenv("SSD_PLAIN", "1")
    found += answer("Dear", *flags)
    assert [(one["text"], one["plain"]) for one in found] == [(as_text["text"], True)] * 4
    (told,) = answer("Dear", *flags, "--no-plain")
    assert told["text"] == as_question["text"]


def test_an_empty_batch_has_no_answers(family, ssd):
    assert ssd("--batch", "-", "--core", "big", stdin=b"\n") == (0, "", "")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt" 1}', "line 2 of standard input is not valid JSON"),
        ("[]", "line 2 of standard input is not a JSON object."),
        ('{"id": 1}', "line 2 of standard input has no prompt."),
        ('{"prompt": 1}', "line 2 of standard input has a prompt that is not text."),
        ('{"prompt": "a", "seed": "x"}', "line 2 of standard input has a seed that is not a whole number."),
        ('{"prompt": "a", "seed": true}', "line 2 of standard input has a seed that is not a whole number."),
        ('{"prompt": "a", "messages": []}', "line 2 of standard input has both a prompt and messages."),
        ('{"prompt": "a", "system": 1}', "line 2 of standard input has a system that is not text."),
        ('{"prompt": "a", "plain": 1}', "line 2 of standard input has a plain that is not true or false."),
        ('{"messages": "a"}', "line 2 of standard input has no list of messages under 'messages'."),
        ('{"messages": []}', "line 2 of standard input has no list of messages under 'messages'."),
        ('{"messages": ["a"]}', "message 1 of line 2 of standard input is not a JSON object."),
        ('{"messages": [{"content": "a"}]}', "message 1 of line 2 of standard input has no role."),
        ('{"messages": [{"role": "user"}]}', "message 1 of line 2 of standard input has no content."),
        (
            '{"messages": [{"role": "user", "content": 3}]}',
            "message 1 of line 2 of standard input is a message whose content is not text.",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "cat", "content": "b"}]}',
            "message 2 of line 2 of standard input is a message whose role is not one of system, user, assistant",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "line 2 of standard input: there is no user message.",
        ),
        (
            '{"prompt": "a", "contxt": ""}',
            "line 2 of standard input has an unknown key 'contxt'. Did you mean 'context'?",
        ),
    ],
)
def test_a_wrong_line_has_its_own_result(family, ssd, line, problem):
    flags = ["--batch", "-", "--core", "big", "--json", "--max-tokens", "1", "--seed", "5"]
    code, out, err = ssd(*flags, stdin=f'{{"prompt": "a"}}\n{line}\n{{"prompt": "b"}}\n'.encode())
    first, wrong, last = map(json.loads, out.splitlines())
    assert (code, first["id"], first["prompt"], last["id"], last["prompt"]) == (1, 0, "a", 2, "b")
    assert (wrong["text"], wrong["finish_reason"]) == (None, "error")
    assert wrong["error"].startswith(problem)
    assert problem in err
    assert "1 row of the batch could not be answered." in err


def test_a_batch_of_which_no_row_can_be_answered_is_refused(family, refused):
    told = refused("--batch", "-", "--core", "big", stdin=b'{"id": 1}\n{"promt": "a"}\n')
    assert told.startswith("line 1 of standard input has no prompt.")


def test_a_batch_without_json_keeps_the_places_of_its_rows(family, ssd):
    batch = b'{"prompt": "a", "seed": 1}\n{"id": "x"}\n{"prompt": "b", "seed": 2}\n'
    code, out, err = ssd("--batch", "-", "--core", "big", *FAST, stdin=batch)
    assert (code, out.count("---\n")) == (1, 2)
    assert "---\n\n---\n" in out
    assert "x: line 2 of standard input has no prompt." in err


def test_a_row_that_these_models_cannot_answer_has_its_own_result(answer, ssd):
    batch = b'{"prompt": "the ____ is"}\n{"prompt": "no gap", "id": "whole"}\n'
    code, out, _ = ssd("--batch", "-", "--core", "big", "--infill", "--json", *FAST, stdin=batch)
    filled, wrong = map(json.loads, out.splitlines())
    assert (code, filled["finish_reason"] != "error", wrong["id"]) == (1, True, "whole")
    assert "no gap" in wrong["error"]


def test_a_table_of_prompts_has_seeds_and_a_history_has_turns(tmp_path):
    (tmp_path / "table.csv").write_text("Prompt;SEED;plain\nDear;-7;true\n")
    (request,) = inputs.read_requests(None, str(tmp_path / "table.csv"), ())
    assert (request.asked, request.seed, request.plain) == ("Dear", -7, True)
    row = {"instruction": "And tomorrow?", "output": "Rain.", "history": [["Weather?", "Sun."]], "text": "all of it"}
    (tmp_path / "alpaca.json").write_text(json.dumps([row]))
    (request,) = inputs.read_requests(None, str(tmp_path / "alpaca.json"), ())
    assert [(turn.role, turn.content) for turn in request.turns] == [
        ("user", "Weather?"),
        ("assistant", "Sun."),
        ("user", "And tomorrow?"),
    ]


def test_pictures_in_a_batch_are_counted_and_a_broken_row_keeps_its_place(tmp_path, capsys):
    seen = {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {}}]}
    rows = [{"messages": [seen]}, 3, {"prompt": "b"}]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    first, wrong, last = inputs.read_requests(None, str(tmp_path / "a.json"), ())
    assert (first.asked, last.asked, wrong.id) == ("See", "b", 1)
    assert "cannot be read" in wrong.problem
    assert "1 part of" in capsys.readouterr().err


def test_a_context_file_without_text_is_said(tmp_path, capsys):
    (tmp_path / "empty").write_text(" \n\n")
    (tmp_path / "one").write_text("the boiler\n")
    assert inputs.read_context([tmp_path / "empty", tmp_path / "one"]) == "the boiler"
    assert "empty' has no text." in capsys.readouterr().err


# The flags


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--top-p", "0"], "--top-p 0 must be above 0 and at most 1. Write --top-p 0.95, for example."),
        (["--top-p", "2"], "--top-p 2 must be above 0 and at most 1. Write --top-p 0.95, for example."),
        (["--min-p", "2"], "--min-p 2 must be between 0 and 1. Write --min-p 0, for example."),
        (
            ["--repetition-penalty", "0"],
            "--repetition-penalty 0 must be above 0. Write --repetition-penalty 1, for example.",
        ),
        (["--no-repeat=-1"], "--no-repeat -1 must be at least 0. Write --no-repeat 0, for example."),
        (["--no-repeat", "2.5"], "--no-repeat 2.5 must be a whole number. Write --no-repeat 0, for example."),
        (["--max-tokens", "many"], "--max-tokens many must be a whole number. Write --max-tokens 128, for example."),
        (["--temperature", "cold"], "--temperature cold must be a number. Write --temperature 1, for example."),
        (["--temperature=-1"], "--temperature -1 must be at least 0. Write --temperature 1, for example."),
        (["--temperature", "nan"], "--temperature nan must be a number. Write --temperature 1, for example."),
        (["--steps", "0"], "--steps 0 must be at least 1. Write --steps 1, for example."),
        (["--n", "0"], "--n 0 must be at least 1. Write --n 1, for example."),
        (["--max-tokens=-1"], "--max-tokens -1 must be at least 0. Write --max-tokens 128, for example."),
        (["--stop", ""], "--stop '' must be text that is not empty. Write --stop END, for example."),
        (
            ["--rule", "blend"],
            "--rule blend must be one of mix, average, contrast, gated. Write --rule mix, for example.",
        ),
        (
            ["--schedule", "never"],
            "the schedule 'never' cannot be read (No such file or directory). "
            "Write constant, leaning[:S], sandwich[:F], or name a file.",
        ),
        (
            ["--schedule", "sandwich"],
            "a sandwich needs a core and a small model that both run. Name both, or omit it.",
        ),
        (
            ["--rule", "contrast"],
            "the rule contrast needs a core and a small model. Name both, as in --core starter --with notes.",
        ),
        (
            ["--with", "notes", "--rule", "contrast"],
            "the rule contrast needs private context, or a small model trained with --base. "
            "Give --context FILE, or use --rule mix.",
        ),
        (["--remask", "1"], "--remask 1 must be at least 0 and below 1. Write --remask 0, for example."),
        (["--early-stop=-1"], "--early-stop -1 must be at least 0. Write --early-stop 0, for example."),
        (["--gap", "0"], "--gap 0 must be at least 1. Write --gap 16, for example."),
        (["Dear", "--infill"], "the prompt has no gap to fill. Write ____ where text is missing."),
        (
            ["--guide", "tone"],
            "the guide 'tone' does not name a model and a label. "
            "Write MODEL:LABEL or MODEL:LABEL=SCALE, as in ./tone:friendly=50.",
        ),
        (["--with", "notes=x"], "--with notes=x: 'x' is not a weight. Give a number, as in --with notes=0.3."),
        (["--with", "notes="], "--with notes=: '' is not a weight. Give a number, as in --with notes=0.3."),
        (["--with", "notes", "--with", "notes=1"], "--with names 'notes' twice. Name each small model once."),
        (
            ["--with", "notes=0"],
            "the weight of 'notes' must be above 0 and at most 1, not 0. Write --with notes=0.3, for example.",
        ),
        (
            ["--with", "notes=0.6", "--with", "mail"],
            "the weights of the small models sum to 1.1, which is more than 1: 0.6 (notes) + 0.5 (mail). "
            "Give smaller ones, as in --with NAME=0.3.",
        ),
        (
            ["--context", "x"],
            "only small models and memories see --context, and none is named. Name one, as in --with notes.",
        ),
        (
            ["--with", "notes", "--context", "gone"],
            "the context file 'gone' cannot be read (No such file or directory). Name a text file.",
        ),
        (["--batch", "gone"], "the batch file 'gone' cannot be read (No such file or directory). Name a text file."),
        (["Dear", "--batch", "-"], "with --batch the prompts come from its lines. Omit the PROMPT."),
    ],
)
def test_what_cannot_be_right_is_one_line_and_code_2(family, refused, arguments, problem):
    Registry().set_default("big")
    assert refused(*arguments) == problem


def test_a_mistyped_model_ends_with_code_3_before_anything_is_read(family, ssd, monkeypatch):
    monkeypatch.setattr(inputs, "read_prompt", None)
    said = "ssd: no model named 'note'. Did you mean 'notes'? See 'ssd models list'.\n"
    assert ssd("Dear", "--with", "note") == (3, "", said)


def test_flags_win_over_variables_and_those_over_a_recipe(answer, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('core = "big"\nmax-tokens = 3\nseed = 1\nsteps = 2\nstats = false\n')
    monkeypatch.setenv("SSD_SEED", "2")
    monkeypatch.setenv("SSD_MAX_TOKENS", "4")
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"), "--max-tokens", "5")
    assert (told["core"], told["seed"], told["tokens"], told["steps"]) == ("big", 2, 5, 2)


def test_small_models_may_be_named_by_a_recipe_or_a_variable(answer, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text('with = ["notes=0.2", "mail"]\nmax-tokens = 1\nsteps = 1\n')
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"))
    assert {use["name"]: use["weight"] for use in told["members"]} == {"big": 0.3, "notes": 0.2, "mail": 0.5}
    monkeypatch.setenv("SSD_WITH", "mail=0.4,notes")
    (told,) = answer("Dear", "--recipe", str(tmp_path / "mine.toml"))
    assert {use["name"]: use["weight"] for use in told["members"]} == {"big": 0.3, "mail": 0.4, "notes": 0.3}


def test_the_first_help_panel_has_ten_flags_at_most(ssd):
    code, out, _ = ssd("--help")
    panel = out.partition("Options:")[2].partition("More:")[0]
    assert code == 0
    assert 5 < len(re.findall(r"^ +(?:-h, )?--", panel, re.MULTILINE)) <= 10
    assert out.index("More:") < out.index("--top-p")


def test_help_and_errors_import_no_torch(family):
    probe = (
        "import sys; from ssdcli.cli.app import main; "
        "codes = [main(['generate', '--help']), main(['generate', 'a', '--with', 'nots'])]; "
        "sys.exit('torch' in sys.modules or codes != [0, 3])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0


@pytest.mark.parametrize(("flag", "offered"), [("--core", ["big"]), ("--with", ["mail", "notes"])])
def test_names_are_completed(family, run_ssd, flag, offered):
    words = {"COMP_WORDS": f"ssd generate {flag} ", "COMP_CWORD": "3", "_SSD_COMPLETE": "complete_bash"}
    completed = run_ssd(env=words).stdout.split()
    bundled = [entry.name for entry in Registry().entries() if entry.bundled]
    assert [name for name in completed if name not in bundled] == offered
