"""Which ensembles are measured, from manifests alone."""

from __future__ import annotations

import pytest

from ssdcli.engine.ensemble.switching import Switching
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.evaluation.candidates import find_candidates
from ssdcli.evaluation.comparison import _combination
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.registry.store import Registry
from tests.generation.test_parts import add_adapter
from tests.memories import CORE, add_notes
from tests.tiny import add_family, add_gated, add_tiny

GRID = tuple(i / 10 for i in range(1, 11))


@pytest.fixture(autouse=True)
def _family():
    add_family()


def candidates(core=None, members=None, **settings):
    return find_candidates(core, members, EvalSettings(**settings), Registry())


def pairs(found):
    return [(sweep.rule, sweep.schedule) for sweep in found.sweeps]


VARYING = ("leaning", "sandwich", "core-last")


def weights_of(spec):
    return {one.name: round(one.signed(one.weight), 9) for one in spec.members}


def test_a_core_and_a_small_model_mix_and_average_at_all_weights():
    found = candidates(members=["notes"])
    assert (found.core, found.first, found.learner.name) == ("big", "notes", "notes")
    assert pairs(found) == [(rule, how) for rule in ("mix", "average") for how in ("constant", *VARYING)]
    assert [sweep.weights for sweep in found.sweeps] == [GRID, *[GRID[:-1]] * 3] * 2
    assert weights_of(found.sweeps[0].specs[2]) == {"big": 0.7, "notes": 0.3}
    assert weights_of(found.sweeps[0].specs[-1]) == {"notes": 1}
    assert [one.name for one in found.members] == ["big", "notes"]


def test_where_small_models_lean_by_default_that_comes_first():
    add_tiny("large", 4, process="simplex")
    add_tiny("letters", 5, kind="small", core="large", process="simplex")
    found = candidates(members=["letters"])
    expected = ("leaning", "constant", "sandwich", "core-last")
    assert pairs(found) == [(rule, how) for rule in ("mix", "average") for how in expected]
    assert found.sweeps[0].weights == GRID[:-1]
    contrasted = candidates(members=["letters"], context="secret", rules=("contrast",))
    assert pairs(contrasted) == [("contrast", "constant"), ("contrast", "leaning")]  # the first is what is tuned


def test_the_default_rule_comes_first():
    add_tiny("causal", 4, attention="autoregressive")
    add_tiny("letters", 5, kind="small", core="causal")
    assert [rule for rule, _ in pairs(candidates(members=["letters"]))][::4] == ["average", "mix"]


def test_the_weight_that_is_named_is_among_those_that_are_measured():
    assert candidates(members={"notes": 0.37}).sweeps[0].weights == tuple(sorted([*GRID, 0.37]))


@pytest.mark.parametrize(("core", "members"), [("big", None), ("none", ["notes"]), (None, None)])
def test_a_model_that_is_alone_makes_no_ensemble(core, members):
    found = candidates(core, members)
    assert found.sweeps == ()
    assert len(found.members) == 1


def test_of_several_small_models_the_first_ones_weight_is_swept_and_the_others_keep_theirs():
    found = candidates(members={"notes": 0.3, "mail": 0.4})
    assert found.sweeps[0].weights == GRID[:6]
    assert weights_of(found.sweeps[0].specs[1]) == {"big": 0.4, "notes": 0.2, "mail": 0.4}
    assert weights_of(found.sweeps[0].specs[-1]) == {"notes": 0.6, "mail": 0.4}
    assert found.sweeps[1].weights == found.sweeps[2].weights == GRID[:5]  # they need the core


def test_without_a_core_the_others_share_what_the_first_leaves():
    found = candidates("none", {"notes": 0.3, "mail": 0.3})
    assert pairs(found) == [("mix", "constant"), ("average", "constant")]
    assert weights_of(found.sweeps[0].specs[1]) == {"notes": 0.2, "mail": 0.8}
    assert weights_of(found.sweeps[0].specs[-1]) == {"notes": 1}


def test_others_that_leave_nothing_are_refused():
    with pytest.raises(UsageError, match=r"mail 0\.95"):
        candidates(members={"notes": 0.05, "mail": 0.95}, schedules=("sandwich",), rules=("mix",))


def test_contrast_is_measured_where_there_is_a_base_that_fits():
    add_tiny("specialist", 4, kind="small", core="big", base="notes")
    found = candidates(members=["specialist"])
    assert pairs(found)[-2:] == [("contrast", "constant"), ("contrast", "leaning")]
    assert found.sweeps[-2].weights == GRID
    assert weights_of(found.sweeps[-2].specs[3]) == {
        "big": 1,
        "specialist": 0.4,
        "notes, base of specialist": -0.4,
    }
    assert [one.name for one in found.members] == ["big", "specialist", "notes, base of specialist"]
    Registry().remove("notes")
    assert "contrast" not in dict(pairs(candidates(members=["specialist"])))
    with pytest.raises(NoSuchModel, match="'notes'"):
        candidates(members=["specialist"], rules=("contrast",))


def test_with_private_context_a_small_model_is_contrasted_with_itself():
    found = candidates(members=["notes"], context="secret")
    assert pairs(found)[-2:] == [("contrast", "constant"), ("contrast", "leaning")]
    assert [one.name for one in found.members] == ["big", "notes", "notes without context"]


def test_a_gate_is_measured_where_there_is_one_beside_one_core():
    add_gated()
    found = candidates(members=["gated"])
    assert pairs(found)[-1] == ("gated", "leaning")
    assert found.sweeps[-1].weights == (None,)
    assert weights_of(found.sweeps[-1].specs[0]) == {"big": 0.6, "gated": 0.4}
    assert pairs(candidates(members={"gated": 0.7}, rules=("gated",))) == [("gated", "leaning")]
    for others in (["gated", "notes"], ["notes"]):
        assert "gated" not in dict(pairs(candidates(members=others)))
    assert "gated" not in dict(pairs(candidates("none", ["gated", "notes"])))
    assert "gated" not in dict(pairs(candidates(members=["gated"], schedules=("constant",))))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rules": ("average",)}, [("average", how) for how in ("constant", *VARYING)]),
        ({"schedules": ("constant",)}, [("mix", "constant"), ("average", "constant")]),
        ({"rules": ("contrast",), "context": "x"}, [("contrast", "constant"), ("contrast", "leaning")]),
        ({"rules": ("mix",), "schedules": ("sandwich:0.5",)}, [("mix", "sandwich:0.5")]),
    ],
)
def test_what_is_asked_for_is_measured_as_far_as_it_can_be(settings, expected):
    assert pairs(candidates(members=["notes"], **settings)) == expected


def test_a_schedule_from_a_file_has_weights_of_its_own(tmp_path):
    file = tmp_path / "rising.toml"
    file.write_text("big = [[1.0, 0.9], [0.0, 0.1]]\n")
    found = candidates(members=["notes"], rules=("mix",), schedules=(str(file),))
    assert found.sweeps[0].weights == (None,)
    (spec,) = found.sweeps[0].specs
    assert [one.schedule(1.0) for one in spec.members] == [0.9, 0.3]


@pytest.mark.parametrize(
    ("members", "settings", "said"),
    [
        (["notes"], {"rules": ("contrast",)}, "the rule contrast needs private context"),
        (["notes"], {"rules": ("contrast",), "schedules": ("sandwich",), "context": "x"}, "at every step"),
        (None, {"context": "x"}, "only small models and memories see private context"),
        (["notes"], {"schedules": ("nowhere.toml",)}, "cannot be read"),
        (["notes"], {"rules": ("gated",)}, "'notes' has no gate"),
        (["notes"], {"rules": ("mash",)}, "rules='mash' must be one of"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_loaded(members, settings, said):
    with pytest.raises(UsageError, match=said):
        candidates(members=members, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"documents": 0}, "documents=0 must be at least 1"),
        ({"minutes": 0}, "minutes=0 must be above 0"),
        ({"minutes": float("inf")}, "minutes=inf must be above 0"),
        ({"generate": -1}, "generate=-1 must be at least 0"),
        ({"judge": "folder"}, "none are to be generated"),
    ],
)
def test_settings_are_checked_when_they_are_made(settings, said):
    with pytest.raises(UsageError, match=said):
        EvalSettings(**settings)


def test_an_adapter_beside_a_small_model_is_measured_in_its_place() -> None:
    add_notes()
    add_adapter("one")
    found = find_candidates(CORE, ["one", "notes"], EvalSettings(rules=("switching",)), Registry())
    names = [member.name for member in found.members]
    assert {CORE, "one", "notes"} <= set(names)
    (spec,) = found.sweeps[0].specs
    rule = _combination(spec, names).rule
    assert isinstance(spec.rule, Switching)
    assert isinstance(rule, Switching)
    for one, other in zip(rule.experts, spec.rule.experts, strict=True):
        own = [spec.members[place].name for place in other.members]
        assert [names[place] for place in one.members] == own
