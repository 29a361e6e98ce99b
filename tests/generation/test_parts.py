"""Which memories join, with which weights and by which rule, as the names, the manifests and the flags say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import CONTEXT_GATE, PUBLIC_GATE
from ssdcli.engine.ensemble.rules import GatedAverage
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.generation.blend import Blend
from ssdcli.generation.parts import UNTUNED_MEMORY
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.registry.store import Registry
from tests.memories import CORE, GATES, OF_ALL, OF_MEMORY, OF_SMALL, add_notes
from tests.pulled import add_causal
from tests.tiny import add_family, add_tiny

CONSTANT = tuple(gate.__class__(gate.members, gate.weights, gate.coefficients) for gate in GATES)


def weights(spec: EnsembleSpec) -> dict[str, float]:
    return {member.name: pytest.approx(member.weight) for member in spec.members}


def rule(spec: EnsembleSpec) -> str:
    return spec.blend.declared.name


def test_a_small_model_brings_its_memory_and_a_gate_that_won_weighs_them() -> None:
    add_notes()
    spec = choose(None, ["notes"])
    assert weights(spec) == {CORE: 0.5, "notes": 0.2, "notes:memory": 0.3}
    assert [member.role for member in spec.members] == ["core", "small", "memory"]
    assert (rule(spec), spec.gate) == ("gated", OF_ALL)
    assert isinstance(spec.rule, GatedAverage)


def test_the_order_of_a_model_and_its_memory_does_not_matter() -> None:
    add_notes()
    assert choose(None, ["notes:memory", "notes"]) == choose(None, ["notes", "notes:memory"])


def test_without_its_memory_the_gate_of_the_small_model_alone_weighs_it() -> None:
    add_notes()
    spec = choose(None, ["notes"], blend=Blend(memory=False))
    assert weights(spec) == {CORE: 0.6, "notes": 0.4}
    assert spec.gate == OF_SMALL


def test_a_gate_that_did_not_win_leaves_its_constant_weights_to_the_average() -> None:
    add_notes(gates=CONSTANT)
    spec = choose(None, ["notes"])
    assert weights(spec) == {CORE: 0.5, "notes": 0.2, "notes:memory": 0.3}
    assert (rule(spec), spec.gate) == ("average", None)
    asked = choose(None, ["notes"], blend=Blend("gated"))
    assert asked.gate == CONSTANT[0]


@pytest.mark.parametrize("blend", [Blend("average"), Blend("mix"), Blend(schedule="sandwich:0.5")])
def test_a_gate_is_not_used_where_a_rule_or_a_schedule_is_named(blend: Blend) -> None:
    add_notes()
    spec = choose(None, ["notes"], blend=blend)
    assert spec.gate is None
    assert rule(spec) == (blend.rule or "average")
    assert "notes:memory" in weights(spec)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"notes": 0.5}, {CORE: 0.5 * 0.7, "notes": 0.5, "notes:memory": 0.5 * 0.3}),
        ({"notes:memory": 0.2}, {CORE: 0.8, "notes:memory": 0.2}),
        ({"notes": 0.3, "notes:memory": 0.2}, {CORE: 0.5, "notes": 0.3, "notes:memory": 0.2}),
        ({"notes": 1.0}, {"notes": 1.0}),
    ],
)
def test_given_weights_are_constant_and_a_memory_shares_what_they_leave(
    named: dict[str, float | None], expected: dict[str, float]
) -> None:
    add_notes()
    spec = choose(None, named)
    assert weights(spec) == expected
    assert rule(spec) == "average"


def test_a_memory_takes_part_alone_where_it_is_named() -> None:
    add_notes()
    spec = choose(None, ["notes:memory"], blend=Blend(memory=False))
    assert weights(spec) == {CORE: 0.7, "notes:memory": 0.3}
    assert spec.gate == OF_MEMORY
    named = choose(None, ["notes", "notes:memory"], blend=Blend(memory=False))
    assert named.gate == OF_ALL


def test_a_memory_that_no_gate_was_fitted_for_joins_only_where_it_is_named() -> None:
    add_notes(gates=())
    assert weights(choose(None, ["notes"])) == {CORE: 0.6, "notes": 0.4}
    left = 0.6 * UNTUNED_MEMORY
    named = choose(None, ["notes", "notes:memory"])
    assert weights(named) == {CORE: 0.6 - left, "notes": 0.4, "notes:memory": left}


def test_a_model_that_is_a_memory_joins_by_its_name() -> None:
    add_notes("old", kind="memory", attention="none", weight=None, gates=GATES[2:])
    spec = choose(None, ["old"])
    assert weights(spec) == {CORE: 0.7, "old": 0.3}
    assert [member.role for member in spec.members] == ["core", "memory"]
    assert spec.gate == OF_MEMORY


def test_several_models_are_ensembles_of_their_own_that_the_text_weighs() -> None:
    add_notes()
    add_notes("mail", gates=CONSTANT)
    add_notes("old", kind="memory", attention="none", weight=None, gates=GATES[2:])
    spec = choose(None, ["notes", "mail", "old"])
    assert (rule(spec), spec.gate, spec.confidence) == ("switching", None, None)
    notes, mail, old = spec.experts
    assert (notes.name, notes.members, notes.weights, notes.gate) == ("notes", (0, 1, 2), (0.5, 0.2, 0.3), OF_ALL)
    assert (mail.name, mail.members, mail.weights, mail.gate) == ("mail", (0, 3, 4), (0.5, 0.2, 0.3), None)
    assert (old.name, old.members, old.weights, old.gate) == ("old", (0, 5), (0.7, 0.3), OF_MEMORY)
    means = [1.7 / 3, 0.2 / 3, 0.1, 0.2 / 3, 0.1, 0.1]
    assert list(weights(spec).values()) == means
    assert isinstance(spec.rule, Switching)
    assert spec == choose(None, ["notes:memory", "notes", "mail", "old"])
    alone = choose(None, ["notes", "mail"], blend=Blend(memory=False))
    assert [(one.members, one.gate) for one in alone.experts] == [((0, 1), OF_SMALL), ((0, 2), None)]


def test_a_gate_that_mixes_counts_among_several_as_it_does_alone_where_weights_are_constant() -> None:
    add_notes()
    add_notes("mail", gates=(), gate={"bias": 1.0, "level": 0.0, "core": 0.0, "small": 0.0})
    notes, mail = choose(None, ["notes", "mail"]).experts
    assert (notes.gate, mail.name, mail.weights, mail.gate) == (OF_ALL, "mail", (0.6, 0.4), None)


def test_each_of_several_ensembles_is_that_of_its_model_alone() -> None:
    add_notes()
    add_notes("mail", gates=())
    together = choose(None, ["notes", "mail"])
    for expert in together.experts:
        alone = choose(None, [expert.name])
        members = [together.members[place] for place in expert.members]
        assert [(one.name, one.role) for one in members] == [(one.name, one.role) for one in alone.members]
        assert expert.weights == tuple(one.weight for one in alone.members)
        assert expert.gate == alone.gate


@pytest.mark.parametrize("blend", [Blend("average"), Blend("mix"), Blend(schedule="sandwich:0.5")])
def test_several_models_have_mean_weights_where_a_rule_or_a_schedule_is_named(blend: Blend) -> None:
    add_notes()
    add_notes("mail", gates=CONSTANT)
    spec = choose(None, ["notes", "mail"], blend=blend)
    assert weights(spec) == {CORE: 0.5, "notes": 0.1, "notes:memory": 0.15, "mail": 0.1, "mail:memory": 0.15}
    assert spec.experts == ()


def test_a_member_whose_weight_is_zero_is_not_run_among_several_either() -> None:
    add_notes()
    add_notes("mail", gates=(replace(OF_ALL, weights=(0.4, 0.6, 0.0)), *GATES[1:]))
    spec = choose(None, ["notes", "mail"])
    assert [spec.members[place].name for place in spec.experts[1].members] == [CORE, "mail"]
    assert spec.experts[1].weights == (0.4, 0.6)
    assert "mail:memory" not in weights(spec)


def add_adapter(name: str) -> None:
    """Register an adapter of the causal core that remembers NOTES."""
    digest = Registry().find(CORE).manifest.weights_digest
    kind = {"kind": "adapter", "attention": "autoregressive", "base": CORE, "base_weights": digest}
    add_notes(name, gates=(OF_MEMORY,), weight=None, **kind)


def test_each_of_several_adapters_takes_the_place_of_the_core_beside_its_own_memory() -> None:
    add_notes()
    add_adapter("one")
    add_adapter("two")
    spec = choose(None, ["one", "two"])
    assert (rule(spec), spec.core) == ("switching", CORE)
    assert weights(spec) == {"one": 0.35, "one:memory": 0.15, "two": 0.35, "two:memory": 0.15}
    assert [(one.name, one.members, one.gate) for one in spec.experts] == [
        ("one", (0, 1), OF_MEMORY),
        ("two", (2, 3), OF_MEMORY),
    ]
    mixed = choose(None, ["one", "notes"])
    assert [[mixed.members[place].name for place in one.members] for one in mixed.experts] == [
        ["one", "one:memory"],
        [CORE, "notes", "notes:memory"],
    ]


def test_beside_the_core_itself_the_memory_of_an_adapter_has_the_public_gate() -> None:
    add_notes()
    add_adapter("one")
    assert choose(None, ["one"]).gate == OF_MEMORY
    assert choose("one", ["one:memory"]).gate == OF_MEMORY
    assert choose(CORE, ["one:memory"]).gate == PUBLIC_GATE


@pytest.mark.parametrize(
    ("members", "blend", "problem"),
    [
        (["notes"], Blend("switching"), "the rule switching needs several small models beside a causal language model"),
        ({"notes": 0.3, "mail": None}, Blend("switching"), "the weight of 'notes' is set by the rule switching"),
        (["notes", "mail"], Blend("switching", "leaning"), "the rule switching sets the weights itself"),
        (["notes", "mail"], Blend("gated"), "the rule gated weighs one small model and its memory"),
    ],
)
def test_what_the_text_cannot_weigh_is_refused(members: Any, blend: Blend, problem: str) -> None:
    add_notes()
    add_notes("mail")
    with pytest.raises(UsageError, match=problem):
        choose(None, members, blend=blend)


def test_several_tuned_weights_are_divided_by_their_number() -> None:
    add_notes(gates=(), weight=1.0)
    add_notes("mail", gates=(), weight=0.6)
    usual = Blend("average")
    assert weights(choose(None, ["notes", "mail"], blend=usual)) == {CORE: 0.2, "notes": 0.5, "mail": 0.3}
    assert weights(choose(None, {"notes": 0.2, "mail": None})) == {CORE: 0.2, "notes": 0.2, "mail": 0.6}
    add_notes("gated")
    expected = {"notes": 1 / 3, "mail": 0.2, "gated": 0.2 / 3, "gated:memory": 0.1}
    spec = choose(None, ["notes", "mail", "gated"], blend=usual)
    assert weights(spec) == {CORE: 1 - sum(expected.values()), **expected}


def test_small_models_that_leave_nothing_leave_memories_out() -> None:
    add_notes()
    add_notes("mail")
    spec = choose(None, {"notes": 0.5, "mail": 0.5})
    assert weights(spec) == {"notes": 0.5, "mail": 0.5}


def test_without_a_core_a_small_model_and_its_memory_share_the_weight() -> None:
    add_notes()
    assert weights(choose("none", ["notes"])) == {"notes": 0.4, "notes:memory": 0.6}
    assert weights(choose("none", {"notes": 1.0})) == {"notes": 1.0}
    assert weights(choose("none", {"notes:memory": 1.0})) == {"notes:memory": 1.0}


def test_beside_a_causal_core_a_private_context_is_read_and_looked_up() -> None:
    add_notes()
    spec = choose(CORE, context=True)
    assert [(one.name, one.role) for one in spec.members] == [("context", "small"), ("context:memory", "memory")]
    assert weights(spec) == {"context": 0.9, "context:memory": 0.1}  # the core that does not see it has no say
    assert weights(choose(CORE, ["context"], context=True)) == weights(spec)
    assert weights(choose(CORE, {"context": 0.5}, context=True)) == {CORE: 0.5, "context": 0.5}
    assert weights(choose(CORE, context=True, blend=Blend(memory=False))) == {CORE: 0.1, "context": 0.9}
    assert weights(choose(None, ["notes"], context=True)).keys() == {CORE, "notes", "notes:memory"}  # which see it


def test_a_private_context_that_leaves_no_weight_to_a_model_is_refused_with_what_to_do() -> None:
    add_notes()
    with pytest.raises(UsageError, match=r"0\.9 \(context\).*Omit --with context, .* or give it a weight"):
        choose(None, ["notes", "context"], context=True)
    assert "context" in weights(choose(None, {"notes": 0.3, "context": 0.3}, context=True))
    with pytest.raises(UsageError, match="Give smaller ones"):
        choose(CORE, {"context": 0.9, "context:memory": 0.9}, context=True)


def test_a_memory_of_a_private_context_can_join_alone() -> None:
    add_notes()
    spec = choose(CORE, ["context:memory"], context=True)
    assert weights(spec) == dict(zip((CORE, "context:memory"), CONTEXT_GATE.weights, strict=True))
    assert spec.gate == CONTEXT_GATE
    assert weights(choose(CORE, {"context:memory": 0.5}, context=True)) == {CORE: 0.5, "context:memory": 0.5}
    gated = choose(CORE, context=True, blend=Blend("gated"))
    assert (weights(gated), gated.gate) == (weights(spec), CONTEXT_GATE)


def test_a_private_context_is_looked_up_beside_a_small_model_without_a_memory() -> None:
    add_causal(CORE)
    add_tiny("plain", 2, kind="small", core=CORE, weight=0.5)
    spec = choose(None, ["plain"], context=True)
    left = 0.5 * CONTEXT_GATE.weights[1]
    assert weights(spec) == {CORE: 0.5 - left, "plain": 0.5, "context:memory": left}


def test_a_diffusion_core_has_no_memory_of_a_private_context_unless_it_is_named() -> None:
    add_family()
    assert weights(choose("big", ["notes"], context=True)) == {"big": 0.7, "notes": 0.3}
    assert weights(choose("big", {"context:memory": 0.3}, context=True)) == {"big": 0.7, "context:memory": 0.3}
    with pytest.raises(UsageError, match=r"'big' is no causal language model.*Name its memory, --with context:memory"):
        choose("big", ["context"], context=True)


def test_a_model_called_context_is_that_model() -> None:
    add_notes("context")
    spec = choose(None, ["context"])
    assert [member.name for member in spec.members] == [CORE, "context", "context:memory"]


def test_a_contrast_has_no_memory() -> None:
    add_notes()
    spec = choose(None, ["notes"], blend=Blend("contrast"), context=True)
    assert [member.role for member in spec.members] == ["core", "small", "base"]
    with pytest.raises(UsageError, match="the rule contrast needs a core and a small model"):
        choose(None, ["notes:memory"], blend=Blend("contrast"))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["plain:memory"], "'plain' has no memory. Build one with 'ssd train-small DATA --update plain'."),
        ({"notes:memory": 1.5}, "the weight of 'notes:memory' must be above 0 and at most 1, not 1.5."),
        ({"notes": 0.9, "notes:memory": 0.3}, "the weights of the small models sum to 1.2, which is more than 1"),
    ],
)
def test_what_cannot_be_is_refused(names: list[str] | dict[str, float | None], problem: str) -> None:
    add_notes()
    add_tiny("plain", 3, kind="small", core=CORE)
    with pytest.raises(UsageError) as caught:
        choose(None, names)
    assert str(caught.value).startswith(problem)


def test_a_memory_whose_core_is_gone_names_it() -> None:
    add_notes("old", kind="memory", attention="none", weight=None)
    Registry().remove(CORE)
    with pytest.raises(NoSuchModel, match=f"'old' was made for '{CORE}', and there is no model of this name"):
        choose(None, ["old"])


def test_a_confidence_is_that_of_the_members_as_they_were_when_it_was_fitted() -> None:
    sure = Confidence(-0.2, 0.9)
    add_notes(gates=tuple(replace(gate, confidence=sure) for gate in GATES))
    assert choose(None, ["notes"]).confidence == sure
    assert choose(None, ["notes"], blend=Blend(memory=False)).confidence == sure
    assert choose(None, {"notes": 0.3}).confidence is None
    assert choose(None, ["notes"], blend=Blend("average")).confidence is None
    assert choose(CORE).confidence is None
    add_notes(gates=GATES)
    assert choose(None, ["notes"]).confidence is None
