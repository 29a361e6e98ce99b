"""The catalogue: what it declares exists, and a process, a sampler and a rule need one file and one entry each."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest

from ssdcli.cli import app, console
from ssdcli.engine import catalogue
from ssdcli.engine.catalogue import Number, ProcessDeclaration, RuleDeclaration, SamplerDeclaration
from ssdcli.options.checks import above, at_least, between, whole
from ssdcli.registry.manifest import ATTENTIONS
from tests.trainings import write_text

SHAPE = ("--hidden", "32", "--layers", "1", "--context", "64", "--batch-tokens", "128", "--steps", "3")
FROM_SCRATCH = ("--for", "none", "--process", "ring", "--block-size", "8", "--vocabulary", "300")
DECLARED = (*catalogue.PROCESSES, *catalogue.SAMPLERS, *catalogue.RULES, *catalogue.SCHEDULES)


@pytest.fixture
def extended(monkeypatch):
    """The catalogue with a process, a sampler and a rule of which nothing else knows."""
    ring = ProcessDeclaration(
        name="ring", target="tests.engine.throwaway.ring:ring", help="tokens drift", constants={"turns": 2.0}
    )
    redrawing = SamplerDeclaration(
        name="redrawing",
        target="tests.engine.throwaway.redrawing:Redrawing",
        help="draws all tokens",
        process="ring",
        number=Number(name="haste", symbol="X", default=1.0, check=above(0)),
    )
    loudest = RuleDeclaration(name="loudest", target="tests.engine.throwaway.loudest:loudest", help="the maximum")
    monkeypatch.setattr(catalogue, "PROCESSES", (*catalogue.PROCESSES, ring))
    monkeypatch.setattr(catalogue, "SAMPLERS", (*catalogue.SAMPLERS, redrawing))
    monkeypatch.setattr(catalogue, "RULES", (*catalogue.RULES, loudest))


@pytest.fixture
def ssd(capfd, monkeypatch, tmp_path):
    """Runs `ssd` in this process; returns its standard output, or its error if it fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))

    def run(*arguments: str) -> str:
        code = app.main(list(arguments))
        answer, said = capfd.readouterr()
        return answer if code == 0 else said

    yield run
    console.configure(quiet=False, debug=False)


def test_a_process_a_sampler_and_a_rule_of_one_file_each_train_generate_and_evaluate(extended, ssd, tmp_path):
    text = write_text(tmp_path / "notes.txt")
    ssd("train-small", text, *SHAPE, *FROM_SCRATCH, "--name", "core")
    ssd("train-small", text, *SHAPE, "--for", "core", "--name", "small")
    shown = json.loads(ssd("models", "show", "small", "--json"))
    assert (shown["process"], shown["constants"]) == ("ring", {"turns": 2.0})

    asked = ("generate", "Dear", "--with", "small=0.4", "--max-tokens", "12", "--seed", "1", "--json")
    texts = {}
    for sampler in ("redrawing", "redrawing=1", "redrawing=3"):
        written = json.loads(ssd(*asked, "--rule", "loudest", "--sampler", sampler))
        assert [member["forward_passes"] for member in written["members"]] == [8, 8]  # 4 steps of two blocks
        texts[sampler] = written["text"]
    assert texts["redrawing"] == texts["redrawing=1"] != texts["redrawing=3"]
    assert texts["redrawing"] != json.loads(ssd(*asked))["text"]
    assert "haste must be above 0, not 0.0" in ssd(*asked, "--sampler", "redrawing=0")
    assert "the ring process has no sampler 'top-k'. Choose from redrawing." in ssd(*asked, "--sampler", "top-k")
    assert "mix, average, contrast, gated, switching, loudest" in ssd(*asked, "--rule", "quietest")

    (tmp_path / "heldout.txt").write_text("A boiler that is cold says nothing to a landlord. " * 20)
    measured = json.loads(ssd("eval", "heldout.txt", "--with", "small", "--rule", "loudest", "--json"))
    assert (measured["process"], measured["measure"]) == ("ring", "denoising loss")
    assert [(swept["rule"], swept["schedule"]) for swept in measured["ensembles"]] == [
        ("loudest", one.name) for one in catalogue.SCHEDULES
    ]


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: one.target.rpartition(":")[2])
def test_what_is_declared_is_there(one):
    assert callable(one.load())
    assert one.help


def test_every_process_has_a_sampler_and_a_schedule():
    for process in catalogue.PROCESSES:
        assert catalogue.sampler(process.name) == catalogue.samplers(process.name)[0]
        assert catalogue.schedule(process.schedule)


def test_the_defaults_are_those_that_were_published_or_measured():
    """What a model was trained with, and what a seed gives, hangs on them."""
    numbers = {one.target.rpartition(":")[2]: one.number for one in (*catalogue.SAMPLERS, *catalogue.SCHEDULES)}
    assert {name: number.default for name, number in numbers.items() if number is not None} == {
        "TopK": 0,  # the time alone decides
        "Threshold": 0.9,
        "EntropyBound": 0.1,
        "LeftToRight": None,  # one position a step
        "Acceptance": None,  # the checkpoint's own
        "Leaning": 2.0,
        "Sandwich": 0.25,
        "Late": 0.25,
    }
    assert catalogue.REMASK.default == 0
    assert {one.name: (dict(one.constants), one.schedule) for one in catalogue.PROCESSES} == {
        "simplex": ({"K": 5.0, "s": 1e-4}, "leaning"),
        "masked": ({"t_min": 1e-3}, "constant"),
        "uniform": ({}, "constant"),
    }


def test_probabilities_are_averaged_beside_causal_cores_and_multiplied_beside_others():
    rules = {attention: catalogue.default_rule(attention) for attention in (None, *ATTENTIONS)}
    assert rules == dict.fromkeys([None, *ATTENTIONS], "mix") | {"autoregressive": "average"}
    assert catalogue.rule_defaults() == "average beside autoregressive cores, else mix"


@pytest.mark.parametrize(
    ("check", "expected", "within", "beyond"),
    [
        (at_least(0), "at least 0", [0, 7.5], [-0.1, math.inf, math.nan]),
        (whole(at_least(0)), "a whole number of at least 0", [0, 3], [1.5, -1, math.nan]),
        (above(0, most=1), "above 0 and at most 1", [0.1, 1], [0, 1.1]),
        (at_least(0, below=1), "at least 0 and below 1", [0, 0.9], [-0.1, 1]),
        (between(-2, 2), "between -2 and 2", [-2, 2], [-2.1, 2.1]),
    ],
)
def test_a_number_is_held_against_its_bounds(check, expected, within, beyond):
    number = Number(name="x", symbol="X", check=check)
    assert str(number.check) == expected
    assert [number.checked(value) for value in within] == within
    for value in beyond:
        with pytest.raises(ValueError, match=f"x must be {expected}, not {value}"):
            number.checked(value)


@pytest.mark.parametrize("find", [catalogue.process, catalogue.rule, catalogue.schedule])
def test_an_unknown_name_is_refused_with_those_that_are_known(find):
    with pytest.raises(ValueError, match=r"'none': choose from \w+, \w+, \w+"):
        find("none")
