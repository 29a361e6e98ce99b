"""`ssd generate --batch`: lines of prompts and conversations, each answered in order."""

from __future__ import annotations

import json

import pytest

from ssdcli.api import load
from ssdcli.cli import inputs
from tests.tiny import add_tiny

FAST = ["--max-tokens", "10", "--steps", "2", "--seed", "5"]


def text_of(prompt, core="big", members=None, **changes):
    return load(core, members).generate(prompt, max_tokens=10, steps=2, **{"seed": 5, **changes}).text


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


def test_halves_of_surrogate_pairs_in_a_batch_are_counted(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("ssdcli.cli.console.warn", said.append)
    (tmp_path / "rows").write_text(
        '{"prompt": "x \\ud83d y \\ud83d\\ude00"}\n{"messages": [{"role": "user", "content": "\\ude00"}]}'
    )
    inputs.read_requests(None, str(tmp_path / "rows"), ())
    assert said == [f"2 invalid characters of {tmp_path / 'rows'} had to be replaced."]


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
