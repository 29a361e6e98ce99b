"""Ensembles chosen from the registry."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

import ssdcli
from ssdcli.api import Blend, Options, Request, choose, load
from ssdcli.engine.ensemble.rules import average, mix
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import train_tokenizer
from tests.tiny import add_family, add_gated, add_tiny, tiny_backbone


@pytest.fixture
def family():
    add_family()


def shares(spec):
    return {one.model.entry.name: one.weight for one in spec.members}


def test_the_core_keeps_what_the_small_models_leave(family):
    assert shares(choose("big", {"notes": 0.1, "mail": 0.2})) == {"big": 0.7, "notes": 0.1, "mail": 0.2}


def test_a_weight_that_is_not_given_is_the_tuned_one_else_a_half(family):
    assert shares(choose("big", ["notes"])) == {"big": 0.7, "notes": 0.3}
    assert shares(choose("big", {"mail": None})) == {"big": 0.5, "mail": 0.5}
    assert shares(choose("big", "notes")) == {"big": 0.7, "notes": 0.3}


def test_the_rule_is_the_default_beside_the_core_unless_one_is_named(family):
    add_tiny("causal", attention="autoregressive")
    add_tiny("letters", kind="small", core="causal")
    assert choose("big", ["notes"]).blend.rule == "mix"
    assert choose("causal", ["letters"]).blend.rule == "average"
    assert choose("causal", ["letters"]).rule is average
    assert choose("causal", ["letters"], blend=Blend("mix")).rule is mix
    assert choose("none", ["letters", "notes"]).rule is mix


def test_a_gate_says_the_weights_at_every_level(family):
    add_gated(bias=0.0, level=2.0)
    spec = choose("big", ["gated"], blend=Blend("gated"))
    assert shares(spec) == {"big": 0.6, "gated": 0.4}  # what is told
    core, small = (one.schedule for one in spec.members)
    assert [small(t) / core(t) for t in (0.5, 1.0)] == pytest.approx([1.0, math.e])


@pytest.mark.parametrize(
    ("core", "members", "schedule", "said"),
    [
        ("big", None, None, "needs a core and a small model"),
        ("none", ["gated"], None, "needs a core and a small model"),
        ("big", ["gated", "mail"], None, "and several are named"),
        ("big", ["mail"], None, "'mail' has no gate"),
        ("big", {"gated": 0.3}, None, "is set by its gate"),
        ("big", ["gated"], "sandwich", "a gate sets the weights"),
        ("big", ["gated"], "leaning:3", "a gate sets the weights"),
    ],
)
def test_where_a_gate_has_nothing_to_say_it_is_refused(family, core, members, schedule, said):
    add_gated()
    with pytest.raises(UsageError, match=said):
        choose(core, members, blend=Blend("gated", schedule))


def test_a_gate_that_is_sure_of_a_member_writes_what_that_one_writes(family):
    options = Options(max_tokens=16, steps=4, seed=1)
    for bias, core, members in ((-50.0, "big", None), (50.0, "none", ["gated"])):
        add_gated(bias=bias, level=0.0, core=0.0, small=0.0)
        who, gated = load(core, members), load("big", ["gated"], blend=Blend("gated"))
        assert gated.generate("Dear landlord", options).text == who.generate("Dear landlord", options).text


def test_without_a_core_the_weights_are_scaled_to_one(family):
    spec = choose("none", {"notes": 0.2, "mail": 0.6})
    assert spec.core is None
    assert shares(spec) == {"notes": pytest.approx(0.25), "mail": pytest.approx(0.75)}
    assert shares(choose("none", {"notes": 1, "mail": 1})) == {"notes": 0.5, "mail": 0.5}


def test_the_core_is_that_of_the_first_small_model_else_the_default(family):
    add_tiny("other")
    Registry().set_default("other")
    assert choose(None, ["notes"]).core == "big"
    assert choose().core == "other"
    assert choose("big").core == "big"


def test_a_small_model_may_be_the_core_when_it_is_named(family):
    spec = choose("notes")
    assert shares(spec) == {"notes": 1.0}
    assert not spec.members[0].sees_context


def test_a_core_that_is_gone_is_missed_by_name(family):
    Registry().remove("big")
    with pytest.raises(NoSuchModel, match="'notes' was made for 'big', and there is no model of this name"):
        choose(None, ["notes"])
    assert shares(choose("none", ["notes"])) == {"notes": 1.0}


@pytest.mark.parametrize("weight", [0, -0.1, 1.1, float("nan")])
def test_a_weight_outside_its_range_is_refused(family, weight):
    with pytest.raises(UsageError, match="the weight of 'notes' must be above 0 and at most 1"):
        choose("big", {"notes": weight})


def test_weights_above_one_are_refused_with_their_sum(family):
    with pytest.raises(UsageError, match=r"sum to 1\.3, .*: 0\.6 \(notes\) \+ 0\.7 \(mail\)"):
        choose("big", {"notes": 0.6, "mail": 0.7})


def test_weights_that_sum_to_one_leave_nothing_to_the_core(family):
    add_tiny("more", kind="small", core="big")
    spec = choose("big", {"notes": 0.1, "mail": 0.2, "more": 0.7})
    assert shares(spec) == {"notes": 0.1, "mail": 0.2, "more": 0.7}
    assert spec.core == "big"


def test_a_core_cannot_join_another(family):
    add_tiny("other")
    with pytest.raises(UsageError, match="'other' is a core, and only small models, adapters and memories can join"):
        choose("big", ["other"])


@pytest.mark.parametrize(
    ("core", "members", "problem"),
    [
        ("none", None, "neither a core nor a small model"),
        ("notes", ["notes"], "'notes' cannot be both the core and a small model"),
        ("big", ["notes", "notes"], "'notes' is named twice"),
    ],
)
def test_ensembles_that_make_no_sense_are_refused(family, core, members, problem):
    with pytest.raises(UsageError, match=problem):
        choose(core, members)


def test_a_model_that_does_not_fit_is_refused_with_those_that_do(family):
    add_tiny("wide", kind="small", backbone=tiny_backbone(block_size=16))
    add_tiny("wavy", kind="small", process="simplex")
    add_tiny("other", kind="small", tokenizer=train_tokenizer(["other words " * 9], 280))
    for name, problem in {
        "wide": "its block size is 16, not 8",
        "wavy": "its noise process is simplex",
        "other": "their tokenizers differ",
    }.items():
        with pytest.raises(UsageError, match=problem) as caught:
            choose("big", [name])
        assert caught.value.remedy == "These fit 'big': mail, notes."
    with pytest.raises(UsageError) as caught:
        choose("none", ["wide", "notes"])
    assert caught.value.remedy == ("No other small model fits 'wide': combine models that were made for the same core.")


def test_a_constant_that_is_left_out_is_the_usual_one(family):
    for name, t_min in (("old", {}), ("new", {"t_min": 1e-3}), ("odd", {"t_min": 0.1})):
        add_tiny(name, 4, process="masked", constants={"mask_id": 1.0, **t_min}, kind="small", core="big")
    assert [one.model.entry.name for one in choose("old", ["new"]).members] == ["old", "new"]
    with pytest.raises(UsageError, match="its noise process is masked"):
        choose("new", ["odd"])


def test_a_mistyped_name_is_no_model(family):
    with pytest.raises(NoSuchModel, match="Did you mean 'notes'"):
        load("big", {"note": 0.3})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"constants": {}}, "its manifest lacks the constant 'mask_id'"),
        (
            {"constants": {"mask_id": 1.0, "t_min": 0.0}, "attention": "block-causal", "process": "simplex"},
            "lacks the constant 'K'",
        ),
    ],
)
def test_a_model_of_an_unknown_process_is_refused(changes, problem):
    add_tiny("odd", **{"process": "masked", "backbone": tiny_backbone(), **changes})
    with pytest.raises(SsdError, match=problem):
        load("odd")


def test_a_tokenizer_that_cannot_be_read_or_has_no_end_is_refused(family):
    path = Registry().find("big").folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "<|fin|>"))
    with pytest.raises(SsdError, match=r"the tokenizer of 'big' has no token <\|endoftext\|>"):
        load("big")
    path.write_text("{")
    with pytest.raises(SsdError, match=r"'big' cannot be used: its tokenizer\.json cannot be read"):
        load("big")


def test_the_package_offers_the_interface_lazily():
    probe = "import sys, ssdcli; assert 'torch' not in sys.modules; ssdcli.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0
    assert (ssdcli.load, ssdcli.Blend, ssdcli.Options, ssdcli.Request) == (load, Blend, Options, Request)
    with pytest.raises(AttributeError):
        _ = ssdcli.nothing
