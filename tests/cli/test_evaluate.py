"""`ssd eval` as it is typed: tables, one JSON object, a plot, a stored weight, and sentences for what cannot be."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.cli import app, console
from ssdcli.registry.store import Registry
from tests.tiny import add_family

SVG = "{http://www.w3.org/2000/svg}"
ESTIMATE = {"value", "low", "high"}
QUICK = ("text.jsonl", "--with", "notes", "--rule", "mix", "--schedule", "constant")


@pytest.fixture
def ssd(capfd, monkeypatch, tmp_path):
    """Runs `ssd` in this process, beside text of ten documents; returns the code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssdcli.evaluation.continuations._TOKENS", 16)
    add_family()
    texts = [
        f"Dear landlord, the boiler is cold again, for the {n}. time, and the stairs are dark, too." for n in range(10)
    ]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def run(*arguments):
        return app.main(["eval", *map(str, arguments)]), *capfd.readouterr()

    yield run
    console.configure(quiet=False, debug=False)


def test_tables_tell_of_members_of_the_sweep_and_of_ensembles(ssd):
    code, answer, said = ssd("text.jsonl", "--with", "notes")
    assert (code, said) == (0, "")
    assert "\x1b" not in answer
    members, sweep, ensembles, meaning = answer.split("\n\n")
    assert members.splitlines()[0].split()[:2] == ["MODEL", "ROLE"]
    assert [line.split()[0] for line in members.splitlines()[1:]] == ["big", "notes"]
    assert "±" in members
    rows = [line.split() for line in sweep.splitlines()[1:]]
    assert [float(row[0]) for row in rows] == [i / 10 for i in range(1, 11)]
    assert [len(row) for row in rows] == [9] * 9 + [3]
    assert [line.split("  ")[0] for line in ensembles.splitlines()[1:]] == [
        "mix, constant",
        "mix, leaning",
        "mix, sandwich",
        "mix, core-last",
        "average, constant",
        "average, leaning",
        "average, sandwich",
        "average, core-last",
    ]
    assert "bits per byte are of the NELBO" in meaning
    assert "Intervals are 95% confidence intervals." in meaning
    assert "gain, on documents that did not choose it" in meaning


def test_a_single_document_has_no_interval_and_the_reason_is_told(ssd):
    code, answer, said = ssd("text.jsonl", "--core", "big", "--documents", "1")
    assert (code, said) == (0, "")
    assert "±" not in answer
    assert "Intervals and gains need two documents" in answer.splitlines()[-1]
    code, answer, said = ssd(*QUICK, "--documents", "1")
    assert (code, said) == (0, "")
    assert answer.splitlines()[-1].endswith(" on this document.")
    assert "did not choose" not in answer
    _, _, ensembles, _ = answer.split("\n\n")
    assert {line.split()[-1] for line in ensembles.splitlines()[1:]} == {"-"}
    code, answer, _ = ssd(*QUICK, "--documents", "1", "--json")
    assert (code, json.loads(answer)["best"]["gain"]) == (0, dict.fromkeys(("value", "low", "high")))


def test_the_json_object_has_its_shape(ssd):
    code, answer, said = ssd(*QUICK, "--json", "--seed", "5", "--generate", "1")
    found = json.loads(answer)
    assert (code, found["seed"], found["core"], found["small"]) == (0, 5, "big", "notes")
    assert said.count("ssd: warning:") == 1  # what the texts were not measured by
    assert list(found) == [
        *("core", "small", "process", "measure", "members", "better_member", "ensembles", "best", "gates", "generated"),
        *("calibration", "cloze"),
        *("documents", "tokens", "bytes", "trained", "seed", "seconds", "remarks"),
    ]
    assert (found["process"], found["measure"], found["documents"]) == ("masked", "NELBO", 10)
    assert [(one["name"], one["role"]) for one in found["members"]] == [("big", "core"), ("notes", "small")]
    (swept,) = found["ensembles"]
    assert list(swept) == ["rule", "schedule", "weight", "gain", "sweep"]
    for one in (*found["members"], *swept["sweep"]):
        assert set(one["bits_per_byte"]) == set(one["nats_per_token"]) == ESTIMATE
        assert one["bits_per_byte"]["low"] < one["bits_per_byte"]["value"] < one["bits_per_byte"]["high"]
        assert len(one["by_level"]) == len(one["by_level_margin"]) == 10
    assert [point["weight"] for point in swept["sweep"]] == [i / 10 for i in range(1, 11)]
    assert set(found["best"]) == {"rule", "schedule", "weight", "bits_per_byte", "gain"}
    assert set(found["best"]["gain"]) == ESTIMATE
    assert [texts["name"] for texts in found["generated"]] == ["held-out text", "big", "notes", "ensemble"]
    assert list(found["generated"][0]) == [
        *("name", "count", "distinct_1", "distinct_2", "distinct_3"),
        *("repetition", "zipf", "perplexity", "mauve"),
    ]


def test_exact_code_lengths_are_named_in_tables_json_and_pictures(ssd):
    code, answer, _ = ssd(*QUICK, "--exact", "--plot", "found.svg", "--documents", "4")
    assert code == 0
    assert "bits per byte are of the exact code length" in answer
    root = ET.fromstring(Path("found.svg").read_text())
    titles = [one.text for one in root.iter(f"{SVG}title")]
    assert titles == ["big with notes", "big with notes, constant weights"]
    assert {"bits per byte, code length", "weight of notes"} <= {one.text for one in root.iter(f"{SVG}text")}
    found = json.loads(ssd(*QUICK, "--exact", "--json", "--documents", "4")[1])
    assert found["measure"] == "code length"
    assert all(one["by_level"] == one["by_level_margin"] == [] for one in found["members"])
    assert ssd("text.jsonl", "--core", "big", "--exact", "--documents", "1", "--plot", "one.svg")[0] == 0


def test_save_stores_the_best_weight_a_gate_and_nothing_else(ssd):
    before = Registry().find("notes").manifest
    code, answer, _ = ssd(*QUICK, "--json", "--save")
    after = Registry().find("notes").manifest
    assert code == 0
    assert after.weight == json.loads(answer)["ensembles"][0]["weight"]
    assert after.weight != before.weight
    assert before.gate is None
    assert set(after.gate) == {"bias", "level", "core", "small"}
    assert replace(after, weight=before.weight, gate=None, files=before.files) == before
    assert Registry().verify("notes") == []
    assert ssd(*QUICK)[0] == 0
    assert Registry().find("notes").manifest == after


def test_a_gate_that_was_fitted_is_measured_and_beats_constant_weights_where_it_was(ssd):
    assert ssd(*QUICK, "--save")[0] == 0
    code, answer, _ = ssd("text.jsonl", "--with", "notes", "--plot", "found.svg")
    _, sweep, ensembles, _ = answer.split("\n\n")
    assert code == 0
    assert "GATED" not in sweep
    last = ensembles.splitlines()[-1]
    assert last.startswith("gated, leaning")
    assert "by the gate" in last
    found = json.loads(ssd("text.jsonl", "--with", "notes", "--schedule", "leaning", "--json")[1])["ensembles"]
    bits = {one["rule"]: min(point["bits_per_byte"]["value"] for point in one["sweep"]) for one in found}
    assert bits["gated"] < bits["mix"]


def test_a_plot_shows_each_schedule_over_the_weight_and_the_noise_levels(ssd):
    assert ssd("text.jsonl", "--with", "notes", "--plot", "found.svg", "--json")[0] == 0
    root = ET.fromstring(Path("found.svg").read_text())
    titles = [one.text for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [
        "big with notes",
        "big with notes, constant weights",
        "big with notes, leaning weights",
        "big with notes, sandwich weights",
        "big with notes, core-last weights",
        "big with notes, by noise level",
    ]
    labels = " ".join(filter(None, (one.text for one in root.iter("{http://www.w3.org/2000/svg}text"))))
    assert "mix " in labels
    assert "average " in labels
    assert "noise level" in labels
    assert labels.count("bits per byte, NELBO") == 5


def test_a_core_alone_is_measured_and_drawn(ssd):
    code, answer, _ = ssd("text.jsonl", "--core", "big", "--plot", "one.svg")
    assert (code, answer.count("\n\n")) == (0, 1)
    assert ET.fromstring(Path("one.svg").read_text()) is not None


def test_text_may_come_through_a_pipe(run_ssd):
    add_family()
    done = run_ssd("eval", "-", "--core", "big", "--json", stdin="Dear landlord, the boiler is cold again.\n")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["documents"] == 1
    assert found["members"][0]["bits_per_byte"]["low"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "no text is named"),
        (("nowhere.txt", "--core", "big"), 2, "no file or folder 'nowhere.txt'"),
        (("text.jsonl", "--with", "notez"), 3, "no model named 'notez'. Did you mean 'notes'?"),
        (("text.jsonl", "--with", "notes=2"), 2, "above 0 and at most 1"),
        (("text.jsonl", "--core", "big", "--save"), 2, "--save stores the weight of a small model"),
        (("text.jsonl", "--with", "notes", "--with", "mail", "--save"), 2, "one small model, and several are named"),
        (("text.jsonl", "--with", "notes", "--rule", "mash"), 2, "--rule mash must be one of"),
        (("text.jsonl", "--with", "notes", "--rule", "contrast"), 2, "the rule contrast needs private context"),
        (("text.jsonl", "--with", "notes", "--schedule", "nowhere.toml"), 2, "'nowhere.toml' cannot be read"),
        (("text.jsonl", "--with", "notes", "--plot", "no/where.svg"), 2, "there is no folder"),
        (("text.jsonl", "--with", "notes", "--minutes", "0"), 2, "--minutes 0 must be above 0"),
        (("text.jsonl", "--with", "notes", "--documents", "0"), 2, "--documents 0 must be at least 1"),
        (("text.jsonl", "--with", "notes", "--judge", "x"), 2, "a judge reads texts"),
        (("text.jsonl", "--with", "notes", "--judge", "x", "--generate", "2"), 1, "the judge in x cannot be read"),
        (("text.jsonl", "--with", "notes", "--context", "none.txt"), 2, "context file 'none.txt' cannot be read"),
        (("text.jsonl", "--context", "text.jsonl"), 2, "only small models and memories see private context"),
    ],
)
def test_what_cannot_be_is_one_sentence(ssd, arguments, code, sentence):
    found, answer, said = ssd(*arguments)
    assert (found, answer, said.count("\n")) == (code, "", 1)
    assert sentence in said


def test_an_interruption_leaves_nothing_behind(ssd, monkeypatch):
    before = Registry().find("notes").manifest

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ssdcli.evaluation.evaluate.measure_combinations", interrupt)
    code, answer, said = ssd(*QUICK, "--save", "--plot", "found.svg")
    assert (code, answer, said) == (130, "", "ssd: interrupted.\n")
    assert Registry().find("notes").manifest == before
    assert [path.name for path in Path.cwd().iterdir() if "svg" in path.name] == []


def test_settings_come_from_recipes_and_variables_too(ssd, monkeypatch):
    Path("mine.toml").write_text('with = ["notes"]\nrule = ["mix"]\nschedule = ["constant"]\ndocuments = 3\n')
    monkeypatch.setenv("SSD_DOCUMENTS", "4")
    found = json.loads(ssd("text.jsonl", "--recipe", "mine.toml", "--json")[1])
    assert (found["small"], len(found["ensembles"]), found["documents"]) == ("notes", 1, 4)


def test_ten_options_are_shown_first(ssd):
    code, shown, _ = ssd("--help")
    assert code == 0
    first = shown.split("Options")[1].split("More")[0]
    assert sum(line.strip().startswith("--") for line in first.splitlines()) <= 11  # and --help
