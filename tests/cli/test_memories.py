"""Memories as they are typed: made, updated, written with, measured, shown, exported and audited."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.cli import app, console
from ssdcli.cli.completion import member_names
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.registry.archive import MEMORY_FILES
from ssdcli.registry.store import Registry
from tests.memories import CORE, GATES, add_notes, write_notes
from tests.pulled import add_causal
from tests.terminal import Terminal
from tests.tiny import add_family, add_tiny

Ssd = Callable[..., tuple[int, str, str]]
ONLY = ("notes", "--memory-only", "--for", CORE, "--name", "old")
FAST = ("--max-tokens", "4", "--seed", "5")


@pytest.fixture
def ssd(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ssd]:
    """Runs `ssd` beside a folder of notes and a causal core; returns the code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Terminal())
    write_notes(tmp_path / "notes")
    add_causal(CORE)

    def run(*arguments: str) -> tuple[int, str, str]:
        return app.main(list(arguments)), *capfd.readouterr()

    yield run
    console.configure(quiet=False, debug=False)


def test_a_memory_alone_is_made_in_one_command_and_writes(ssd: Ssd) -> None:
    code, answer, said = ssd("train-small", *ONLY)
    assert (code, said) == (0, "")
    size = Registry().find("old").manifest.memory
    assert size is not None
    assert answer == f"old: a memory of 2 texts of {size['tokens']} tokens, {Registry().find('old').folder}\n"
    code, answer, said = ssd("generate", "Dear landlord, the", "--with", "old", *FAST, "--json")
    assert [one["role"] for one in json.loads(answer)["members"]] == ["core", "memory"]


def test_an_update_says_what_is_new_and_what_is_forgotten(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    Path("notes/1.md").unlink()
    Path("notes/2.md").write_text("A new note about the garden.\n")
    code, answer, _ = ssd("train-small", "notes", "--update", "old")
    assert code == 0
    assert answer.splitlines()[-1] == "1 text new, 1 forgotten"
    code, answer, _ = ssd("train-small", "notes", "--update", "old", "--json")
    size = Registry().find("old").manifest.memory
    assert json.loads(answer) == {"name": "old", **(size or {}), "new": 0, "forgotten": 0}
    assert Registry().find("old").manifest.text["documents"] == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--update", "old"), "no text is named."),
        (("notes", "--update", "nobody"), "no model named 'nobody'."),
        (("notes", "--update", CORE), f"'{CORE}' has no memory to update."),
        (("nowhere", "--update", "old"), "there is no file or folder 'nowhere'"),
        ((*ONLY, "--update", "old"), "--memory-only makes a new memory, and --update changes one."),
        ((*ONLY, "--resume"), "a memory takes seconds, so there is nothing to resume."),
        ((*ONLY, "--no-memory"), "--no-memory leaves nothing to do here."),
        ((*ONLY, "--steps", "3"), "--steps cannot be used with --memory-only."),
        (("notes", "--update", "old", "--name", "new"), "--name cannot be used with --update."),
        ((*ONLY, "--dry-run"), "--dry-run shows what a training would read."),
        (("notes", "--memory-only", "--for", CORE), "the new model has no name."),
        (("notes", "--memory-only", "--for", "none", "--name", "x"), "a memory needs a core"),
    ],
)
def test_what_does_not_go_with_a_memory_is_refused(ssd: Ssd, arguments: tuple[str, ...], problem: str) -> None:
    ssd("train-small", *ONLY)
    before = Registry().find("old").manifest
    code, answer, said = ssd("train-small", *arguments)
    assert code in (1, 2, 3)
    assert answer == ""
    assert problem in said
    assert Registry().find("old").manifest == before


def test_a_memory_is_left_out_on_request_and_its_copies_are_bounded(ssd: Ssd) -> None:
    add_notes()
    members = []
    for flags in ((), ("--no-memory",), ("--max-copy", "2"), ("--with", "notes:memory=0.3")):
        code, answer, said = ssd("generate", "Dear landlord, the", "--with", "notes", *flags, *FAST, "--json")
        assert (code, said) == (0, "")
        members.append({one["name"]: one["weight"] for one in json.loads(answer)["members"]})
    assert members[0] == members[2] == {CORE: 0.5, "notes": 0.2, "notes:memory": 0.3}
    assert members[1] == {CORE: 0.6, "notes": 0.4}
    assert members[3]["notes:memory"] == 0.3
    code, _, said = ssd("generate", "Dear", "--max-copy", "2", "--core", CORE, *FAST)
    assert code == 2
    assert "there is no memory whose text could be copied" in said
    code, _, said = ssd("generate", "Dear", "--with", "notes:memory", "--no-memory", *FAST)
    assert code == 2
    assert "'notes:memory' is a memory, and --no-memory leaves memories out. Omit one of the two." in said


def test_a_context_needs_no_small_model_beside_a_causal_core(ssd: Ssd) -> None:
    Path("me.txt").write_text("The boiler is dark.")
    code, answer, said = ssd("generate", "The boiler", "--core", CORE, "--context", "me.txt", *FAST, "--json")
    assert (code, said) == (0, "")
    told = json.loads(answer)
    members = [(one["name"], one["role"], one["weight"]) for one in told["members"]]
    assert members == [(CORE, "core", 0), ("context", "small", 0.9), ("context:memory", "memory", 0.1)]
    Path("batch.jsonl").write_text('{"prompt": "The boiler", "context": "The boiler is dark.", "seed": 5}\n')
    code, answer, said = ssd("generate", "--batch", "batch.jsonl", "--core", CORE, "--max-tokens", "4", "--json")
    assert json.loads(answer)["text"] == told["text"]


def test_what_is_picked_of_a_folder_is_told_with_its_files_and_lines(ssd: Ssd) -> None:
    Path("notes/empty.md").write_text("")
    asked = ("generate", "The stairs are dark", "--core", CORE, "--context", "notes", "--pick", *FAST)
    code, answer, said = ssd(*asked, "--json")
    assert code == 0
    assert "skipped 1 file: empty" in said
    told = json.loads(answer)
    found = told["picked"]["passages"]
    assert found
    for one in found:
        lines = Path(one["file"]).read_text(encoding="utf-8").splitlines()
        assert " ".join(lines[one["first"] - 1 : one["last"]]) == one["text"]
    code, answer, said = ssd(*asked)
    assert answer == told["text"] + "\n"
    share = told["picked"]["share"]
    places = [f"{one['file']}:{one['first']}" + f"-{one['last']}" * (one["last"] > one["first"]) for one in found]
    assert f"kept {share:.1%} of the context: {', '.join(places)}\n" in said


def test_an_explanation_has_the_file_and_the_line(ssd: Ssd) -> None:
    add_notes()
    arguments = ("generate", "Dear landlord, the boiler", "--with", "notes:memory=0.99", "--temperature", "0")
    code, answer, _ = ssd(*arguments, *FAST, "--explain", "--json")
    assert code == 0
    assert json.loads(answer)["explain"][0]["source"] == "0.md:1"


def test_eval_stores_the_gates_that_it_shows(ssd: Ssd) -> None:
    add_notes(gates=())
    texts = [f"Dear landlord, the boiler is cold, for the {n}. time, and the lift is dark, too." for n in range(6)]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    quick = ("text.jsonl", "--with", "notes", "--with", "notes:memory", "--rule", "average", "--schedule", "constant")
    code, answer, said = ssd("eval", *quick, "--save")
    assert code == 0
    assert "core + small + memory" in answer
    assert "Stored the weights and the gates of 'notes'." in said or said == ""
    gates = Registry().find("notes").manifest.joint_gates
    assert [gate.members for gate in gates] == [("core", "small", "memory"), ("core", "small"), ("core", "memory")]
    best = answer[answer.index("best: ") :]
    code, answer, _ = ssd("eval", *quick, "--json")
    found = json.loads(answer)
    told = found["gates"]
    won = min((one["by_gate"]["value"] for one in told if one["is_default"]), default=math.inf)
    is_gate = won < found["best"]["bits_per_byte"]["value"]
    assert best.startswith("best: the gate of core + " if is_gate else "best: average")
    assert [one["members"] for one in told] == [list(gate.members) for gate in gates]
    assert [one["weights"] for one in told] == [list(gate.weights) for gate in gates]


def test_several_models_are_weighed_by_the_text_and_it_is_told(ssd: Ssd) -> None:
    add_notes()
    add_notes("mail")
    both = ("--with", "notes", "--with", "mail")
    code, answer, said = ssd("generate", "Dear landlord, the boiler", *both, *FAST, "--json", "--explain", "--stats")
    told = json.loads(answer)
    assert code == 0
    assert sum(told["weights"].values()) == pytest.approx(1)
    assert [list(one["weights"]) for one in told["explain"]] == [["notes", "mail"]] * told["tokens"]
    assert "weighed by the text: notes 0." in said
    texts = [f"Letter {n}: the boiler and the lift are dark and cold again, and so are the stairs." for n in range(2)]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code, answer, _ = ssd("eval", "text.jsonl", *both)
    assert code == 0
    (row,) = [line for line in answer.splitlines() if line.startswith("switching")]
    assert "by the text" in row
    assert not [line for line in answer.splitlines() if line.startswith("gated")]


def test_eval_stores_the_gate_of_a_memory_alone(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    quick = ("--with", "old", "--rule", "average", "--schedule", "constant", "--save")
    before = Registry().find("old").manifest
    code, _, said = ssd("eval", "notes", *quick)
    assert code == 2
    assert "no gate was fitted for 'old': too little of this text is new to it, or was measured." in said
    texts = [f"Letter {n}: the boiler and the lift are dark and cold again, and so are the stairs." for n in range(6)]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    code, _, said = ssd("eval", "text.jsonl", *quick)
    assert code == 0, said
    after = Registry().find("old").manifest
    assert after.weight is None
    assert [gate.members for gate in after.joint_gates] == [("core", "memory")]
    assert after.joint_gates != before.joint_gates


def test_models_are_listed_and_shown_with_their_memories(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    add_notes()
    code, answer, said = ssd("models", "list")
    assert (code, said) == (0, "")
    assert [line.split()[:2] for line in answer.splitlines()[1:] if line.startswith("old")] == [["old", "memory"]]
    listed = {one["name"]: one["memory"] for one in json.loads(ssd("models", "list", "--json")[1])}
    assert listed["old"] == Registry().find("old").manifest.memory
    assert listed[CORE] is None
    for name, told in (("old", "old: a memory for the core causal\n"), ("notes", "notes: a small ")):
        code, answer, _ = ssd("models", "show", name, "--all")
        assert code == 0
        assert answer.startswith(told)
        assert "2 texts with" in answer
        again = f"ssd train-small FOLDER --update {name} builds it again when the text has changed"
        assert again in " ".join(answer.split())
    assert "0 parameters" not in ssd("models", "show", "old")[1]


def test_an_export_leaves_the_memory_out_and_a_memory_alone_is_refused(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    add_notes()
    code, _, said = ssd("models", "export", "old")
    assert code == 2
    assert "'old' is a memory, which holds the text itself and never leaves this machine." in said
    assert "weights" not in said
    assert not Path("old.tar").exists()
    assert ssd("models", "export", "notes")[0] == 0
    content = Path("notes.tar").read_bytes()
    assert not [file for file in MEMORY_FILES if file.encode() in content]
    assert ssd("models", "import", "notes.tar", "--as", "mine")[0] == 0
    assert Registry().find("mine").manifest.memory is None
    assert ssd("generate", "Dear", "--with", "mine", *FAST)[0] == 0


def test_an_audit_says_what_a_memory_holds(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    code, answer, said = ssd("audit", "old")
    assert (code, said) == (0, "")
    assert answer.startswith("The memory of 'old' holds 2 texts of")
    assert "word for word" in answer
    assert "--max-copy N" in answer
    assert "'ssd models export' refuses it." in answer
    told = json.loads(ssd("audit", "old", "--json")[1])
    assert told["memory"] == Registry().find("old").manifest.memory
    assert told["exposure"] is None


def test_the_doctor_knows_memories(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    code, _, said = ssd("doctor")
    assert code == 0
    assert "old" not in said


def test_a_memory_is_verified_renamed_and_removed_like_a_model(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    assert ssd("models", "verify", "old")[0] == 0
    assert ssd("models", "rename", "old", "mine")[0] == 0
    assert ssd("generate", "Dear", "--with", "mine", *FAST)[0] == 0
    code, _, said = ssd("models", "default", "mine")
    assert code == 2
    assert "'mine' is a memory, and only a core can be the default" in said
    (Registry().find("mine").folder / MEMORY_FILES[0]).write_bytes(b"damaged")
    said = ssd("models", "verify", "mine")[2]
    assert MEMORY_FILES[0] in said
    assert "Build its memory again with 'ssd train-small DATA --update mine'." in said
    code, _, said = ssd("generate", "Dear", "--with", "mine", *FAST)
    assert code == 1
    assert "'ssd train-small DATA --update mine'" in said
    assert ssd("models", "rm", "mine", "--yes")[0] == 0


def test_a_core_that_is_gone_is_named(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    assert "'old' was made for 'causal'; without it, name another core" in ssd("models", "rm", CORE, "--yes")[2]
    code, _, said = ssd("generate", "Dear", "--with", "old", *FAST)
    assert code == 3
    assert "'old' was made for 'causal', and there is no model of this name" in said


def test_a_part_of_a_model_that_does_not_exist_is_named(ssd: Ssd) -> None:
    add_notes()
    code, _, said = ssd("generate", "Dear", "--with", "notes:memori", *FAST)
    assert code == 2
    assert "'notes:memori' is not a model name" in said
    assert "Write --with notes:memory for that model's memory alone." in said


def test_a_gate_of_all_positions_has_no_schedule_in_what_eval_prints(ssd: Ssd) -> None:
    add_notes()
    Path("text.jsonl").write_text(json.dumps({"text": "Dear landlord, the boiler is cold, and the lift is dark."}))
    quick = ("eval", "text.jsonl", "--with", "notes", "--rule", "gated")
    assert "leaning" not in ssd(*quick)[1]
    assert [one["schedule"] for one in json.loads(ssd(*quick, "--json")[1])["ensembles"]] == [None]


def test_memories_are_completed_where_members_are(ssd: Ssd) -> None:
    ssd("train-small", *ONLY)
    add_tiny("oldest", 3, kind="small", core=CORE)
    assert [name for name, _ in member_names("old")] == ["old", "oldest"]


def test_a_confidence_is_the_probability_of_the_tokens_as_it_was_fitted(ssd: Ssd) -> None:
    sure = Confidence(-0.3, 0.8)
    add_notes(gates=tuple(replace(gate, confidence=sure) for gate in GATES))
    asked = ("generate", "Dear landlord,", "--with", "notes", *FAST, "--confidence")
    code, answer, said = ssd(*asked, "--json", "--explain")
    told = json.loads(answer)
    assert (code, said) == (0, "")
    assert told["confidence"] == pytest.approx(sure.of(token["p"] for token in told["explain"]))
    assert 0 < told["confidence"] < 1
    without = json.loads(ssd(*asked, "--json")[1])
    assert (without["confidence"], without["text"]) == (told["confidence"], told["text"])
    assert "explain" not in without
    assert ssd(*asked)[1:] == (told["text"] + "\n", f"confidence {told['confidence']:.3f}\n")
    assert "confidence" not in json.loads(ssd(*asked[:-1], "--json")[1])


def test_where_no_confidence_was_fitted_it_is_the_probability_and_a_warning_says_so(ssd: Ssd) -> None:
    add_notes()
    code, answer, said = ssd("generate", "Dear", "--with", "notes", *FAST, "--confidence", "--json", "--explain")
    told = json.loads(answer)
    assert code == 0
    assert told["confidence"] == pytest.approx(math.prod(token["p"] for token in told["explain"]))
    assert said.startswith("ssd: warning: the confidence is the plain probability: none was fitted")
    assert said.endswith(
        "'ssd eval TEXTS --with notes --save' fits one on several documents, for what it writes by default.\n"
    )


def test_there_is_no_confidence_in_fills_nor_without_a_causal_core(ssd: Ssd) -> None:
    add_family()
    assert ssd("generate", "Dear", "--core", "big", "--confidence")[::2] == (
        2,
        "ssd: the probability of a text is exact only beside a causal language model, and there is none here. Name a "
        "causal core, or omit --confidence.\n",
    )
    code, _, said = ssd("generate", "Dear ____.", "--core", CORE, "--infill", "--confidence")
    assert (code, said) == (2, "ssd: what fills a gap is chosen by the text behind it, too. Omit --confidence.\n")


def test_eval_tells_and_draws_how_often_what_is_written_is_right(ssd: Ssd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssdcli.evaluation.calibration._TOKENS", 6)
    add_notes()
    quick = ("--rule", "average", "--schedule", "constant", "--calibration", "4", "--plot", "drawn.svg")
    code, answer, _ = ssd("eval", "notes", "--with", "notes", "--include-trained", *quick)
    assert code == 0
    (table,) = [part for part in answer.split("\n\n") if part.startswith("WRITTEN BY")]
    assert {line.split()[0] for line in table.splitlines()[1:]} == {CORE, "notes", "ensemble"}
    assert {line.split()[1] for line in table.splitlines()[1:]} == {"word", "phrase", "sentence"}
    drawn = Path("drawn.svg").read_text()
    assert all(f"calibration by {unit}" in drawn for unit in ("word", "phrase", "sentence"))
