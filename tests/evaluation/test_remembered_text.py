"""What is measured of a memory is measured without the measured text; gates are fitted for every set of members."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.errors import UsageError
from ssdcli.evaluation.candidates import find_candidates
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.evaluate import evaluate
from ssdcli.evaluation.measurement import Evaluation
from ssdcli.registry.store import Registry
from ssdcli.training.remember import train_memory
from ssdcli.training.settings import TrainSettings
from tests.memories import CORE, NOTES, add_notes, give_memory
from tests.pulled import add_causal
from tests.tiny import add_family, add_tiny

LETTERS = tuple(
    f"Dear landlord, the boiler is cold again, for the {n}. time. The stairs and the lift are dark, too, and {n} of us "
    f"are cold; dear landlord, the {n}. letter says so."
    for n in range(6)
)
OTHERS = tuple(
    f"Letter {n} to the landlord: again the stairs are dark, the boiler is cold, and so on." for n in range(4)
)
QUICK = EvalSettings(rules=("average",), schedules=("constant",))


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in LETTERS))
    return str(file)


def bits(found: Evaluation) -> dict[str, float]:
    return {one.name: one.figures.bits.value for one in found.members}


def test_measured_documents_and_their_near_duplicates_are_left_out_of_the_memory(text: str) -> None:
    add_notes()
    give_memory("notes", OTHERS)
    without = bits(evaluate([text], members=["notes:memory"], settings=QUICK))
    copies = tuple(f"{letter} P.S. Greetings." for letter in LETTERS)
    give_memory("notes", (*OTHERS, *LETTERS, *copies))
    again = evaluate([text], members=["notes:memory"], settings=QUICK)
    assert bits(again) == pytest.approx(without)
    assert "12 of 16 texts in the memory 'notes:memory' are this text or nearly so: it is measured without them" in (
        again.remarks
    )
    give_memory("notes", OTHERS[:2])
    assert bits(evaluate([text], members=["notes:memory"], settings=QUICK)) != pytest.approx(without)


def test_a_core_and_a_memory_are_combined_by_constant_weights_and_a_gate_alone(text: str) -> None:
    add_notes()
    give_memory("notes", OTHERS)
    found = find_candidates(None, ["notes:memory"], EvalSettings(), Registry())
    assert [(sweep.rule, sweep.varying_schedule) for sweep in found.sweeps] == [
        ("average", "constant"),
        ("mix", "constant"),
        ("gated", None),
    ]


def test_a_memory_that_helps_shows_it(text: str) -> None:
    add_notes()
    give_memory("notes", OTHERS * 2)
    found = evaluate([text], members=["notes:memory"], settings=QUICK)
    assert found.measure == "code length"
    assert bits(found)["notes:memory"] < bits(found)[CORE]
    (swept,) = found.ensembles
    assert swept.points[-1].figures.bits.value == pytest.approx(bits(found)["notes:memory"])
    assert swept.best.figures.bits.value < min(bits(found).values())


def test_gates_are_fitted_for_every_set_of_members(text: str) -> None:
    add_notes()
    found = evaluate([text], members=["notes"], settings=QUICK)
    assert [one.gate.members for one in found.gates] == [
        ("core", "small", "memory"),
        ("core", "small"),
        ("core", "memory"),
    ]
    for one in found.gates:
        assert one.oracle.value < min(one.gated.value, one.constant.value)
        assert sum(one.gate.weights) == pytest.approx(1)
    told = found.to_json()["gates"]
    assert set(told[0]) == {"members", "weights", "at_weights", "by_gate", "oracle", "is_default"}
    assert set(told[0]["by_gate"]) == {"value", "low", "high"}


def test_without_a_memory_there_is_one_gate(text: str) -> None:
    add_causal(CORE)
    add_tiny("plain", 2, kind="small", core=CORE)
    found = evaluate([text], members=["plain"], settings=QUICK)
    assert [one.gate.members for one in found.gates] == [("core", "small")]
    assert found.fitted is None


def test_a_stored_gate_is_measured_as_the_rule_gated(text: str) -> None:
    add_notes()
    found = evaluate([text], members=["notes"], settings=EvalSettings(rules=("gated", "average"), documents=3))
    assert [swept.rule for swept in found.ensembles][:2] == ["gated", "average"]
    assert found.ensembles[0].points[0].weight is None


def test_a_model_that_is_a_memory_is_measured_on_any_text(text: str, tmp_path: Path) -> None:
    add_causal(CORE)
    (tmp_path / "others.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in OTHERS))
    sources = (str(tmp_path / "others.jsonl"), text)
    train_memory(TrainSettings(data=sources, core=CORE, name="old"))
    assert Registry().find("old").manifest.joint_gates == (PUBLIC_GATE,)
    found = evaluate([text], members=["old"], settings=QUICK)
    assert found.documents == len(LETTERS)
    assert set(bits(found)) == {CORE, "old"}
    every = evaluate(list(sources), members=["old"], settings=QUICK)
    assert every.documents == len(LETTERS) + len(OTHERS)
    assert every.to_json()["members"][1]["bits_per_byte"]["value"] is None
    assert any(remark.endswith("so it says nothing") for remark in every.remarks)


def test_a_private_context_is_looked_up_beside_a_causal_core(text: str) -> None:
    add_causal(CORE)
    told, other = (
        bits(evaluate([text], CORE, settings=replace(QUICK, context=context)))
        for context in (OTHERS[0] + OTHERS[1], "Nothing of the kind.")
    )
    assert told[CORE] == other[CORE]
    assert told["context"] < other["context"]


def test_a_private_context_helps_a_memory_that_has_other_text(text: str) -> None:
    add_notes()
    give_memory("notes", NOTES)
    own = bits(evaluate([text], members=["notes:memory"], settings=QUICK))
    told = bits(evaluate([text], members=["notes:memory"], settings=replace(QUICK, context=" ".join(OTHERS))))
    assert told[CORE] == own[CORE]
    assert told["notes:memory"] < own["notes:memory"]


def test_beside_a_core_that_has_no_code_length_a_memory_is_not_measured(text: str) -> None:
    add_family()
    add_notes("own", gates=(), core="big")
    with pytest.raises(UsageError, match="a memory is measured by code lengths alone"):
        evaluate([text], "big", ["own:memory"], QUICK)
    exact = evaluate([text], "big", ["own:memory"], replace(QUICK, exact=True))
    assert set(bits(exact)) == {"big", "own:memory"}


def test_a_memory_has_no_base_to_be_contrasted_with(text: str) -> None:
    add_notes()
    found = evaluate([text], members=["notes"], settings=EvalSettings(context="Dear", documents=3))
    rules = [swept.rule for swept in found.ensembles]
    assert "contrast" in rules
    assert "gated" in rules
