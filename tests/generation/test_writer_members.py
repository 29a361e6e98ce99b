"""How the members of an ensemble are combined, held back and guided while they write."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from ssdcli.api import Blend, Options, load
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.repetition import SharedText
from ssdcli.errors import UsageError
from tests.tiny import BLOCK, add_tiny, tiny_tokenizer

FAST = Options(max_tokens=12, steps=2, seed=5)


def test_a_rule_changes_what_is_written(family):
    options = replace(FAST, max_tokens=30)
    texts = {
        rule: load("big", {"notes": 0.5}, blend=Blend(rule=rule)).generate("Dear", options, context="cold").text
        for rule in ("mix", "average", "contrast")
    }
    assert len(set(texts.values())) == 3


def test_a_contrast_without_anything_private_is_refused(family):
    writer = load("big", {"notes": 0.5}, blend=Blend(rule="contrast"))
    with pytest.raises(UsageError, match="the rule contrast needs private context"):
        writer.generate("Dear", FAST)


def test_a_contrast_holds_the_same_model_without_context_against_it(family, starts):
    writer = load("big", {"notes": 0.5}, blend=Blend(rule="contrast"))
    result = writer.generate("Dear", FAST, context="cold")
    assert [(m.name, m.role, m.weight) for m in result.members] == [
        ("big", "core", 1.0),
        ("notes", "small", 0.5),
        ("notes without context", "base", 0.5),
    ]
    assert [m["weight"] for m in result.to_json()["members"]] == [1.0, 0.5, -0.5]
    core, with_context, without = writer.members
    assert with_context.model is without.model
    assert starts[without.model.denoiser] == starts[core.model.denoiser]  # it was read last


def test_a_contrast_with_the_model_before_specialisation_needs_no_context(family):
    add_tiny("late", 4, kind="small", core="big", base="notes")
    writer = load("big", {"late": 0.5}, blend=Blend(rule="contrast"))
    assert [(m.name, m.role, m.weight) for m in writer.generate("Dear", FAST).members] == [
        ("big", "core", 1.0),
        ("late", "small", 0.5),
        ("notes, base of late", "base", 0.5),
    ]


def test_a_contrast_with_the_core_as_base_needs_no_context(family):
    add_tiny("begun", 4, kind="small", core="big", base="big")
    members = load("big", {"begun": 0.5}, blend=Blend(rule="contrast")).generate("Dear", FAST).members
    assert [m.name for m in members] == ["big", "begun", "big, base of begun"]


def test_a_sandwich_spares_the_core_a_share_of_its_steps(family):
    writer = load("big", {"notes": 0.5}, blend=Blend(schedule="sandwich:0.5"))
    result = writer.generate("Dear", FAST, steps=8)
    assert [m.forward_passes for m in result.members] == [8, 16]
    assert 0.1 < result.flops_saved < 0.3


def test_a_core_that_the_schedule_never_runs_reads_nothing(family, tmp_path, starts):
    plan = tmp_path / "plan.toml"
    plan.write_text("big = [[1, 0]]\n", encoding="utf-8")
    writer = load("big", {"notes": 0.5}, blend=Blend(schedule=str(plan)))
    result = writer.generate("Dear", FAST)
    assert writer.members[0].model.denoiser not in starts
    assert result.text == load("none", ["notes"]).generate("Dear", FAST).text
    assert [m.forward_passes for m in result.members] == [0, 4]
    assert result.members[0].flops == 0


@pytest.mark.parametrize("n", [1, 2])
def test_no_n_gram_of_the_prompt_or_the_text_is_written_again(family, n):
    writer = load("big", {"notes": 0.5})
    prompt = tiny_tokenizer().encode("Dear landlord, Dear").ids
    met = {0: False, n: False}
    for allowed, seed in product(met, range(3)):
        changes = {"max_tokens": 3 * BLOCK, "steps": BLOCK, "explain": True, "seed": seed}
        result = writer.generate("Dear landlord, Dear", context="the boiler", no_repeat=allowed, **changes)
        ids = [*prompt, *(shares.token for shares in result.explain)]
        grams = [tuple(ids[first : first + n]) for first in range(len(ids) - n + 1)]
        met[allowed] |= any(gram in grams[:place] for place, gram in enumerate(grams) if place + n > len(prompt))
    assert met == {0: True, n: False}


def test_a_higher_penalty_writes_more_different_tokens(family):
    writer = load("big", {"notes": 0.5})

    def different(penalty):
        options = Options(max_tokens=24, seed=3, explain=True, repetition_penalty=penalty)
        return len({shares.token for shares in writer.generate("the boiler", options).explain})

    assert different(0.5) < different(1.0) < different(3.0)


def test_min_p_of_one_takes_the_likeliest(family):
    writer = load("big")
    assert writer.generate("Dear", FAST, min_p=1).text == writer.generate("Dear", FAST, temperature=0).text


def test_repetition_counts_what_the_core_reads_and_never_the_private_context(family, monkeypatch):
    seen, of = [], SharedText.of
    monkeypatch.setattr(SharedText, "of", lambda prompts, device: seen.extend(prompts) or of(prompts, device))
    for members in ({"core": "big", "members": {"notes": 0.5}}, {"core": "none", "members": ["notes"]}):
        load(**members).generate("Dear", FAST, context="the boiler", no_repeat=3)
    assert seen == [Prompt(tiny_tokenizer().encode("Dear").ids)] * 2


def test_around_a_gap_the_text_after_it_counts_too(family, monkeypatch):
    seen, of = [], SharedText.of
    monkeypatch.setattr(SharedText, "of", lambda prompts, device: seen.extend(prompts) or of(prompts, device))
    load("big").generate("the ____ is cold", FAST, infill=True, gap=4, repetition_penalty=1.1)
    (prompt,) = seen
    assert tiny_tokenizer().decode(list(prompt.after)) == " is cold"
    assert prompt.gap == BLOCK


def test_guides_steer_what_is_written(family, tone):
    free = load("big").generate("Dear", FAST).text
    texts = {
        scale: load("big", blend=Blend(guides=(f"{tone}:sunny={scale}",))).generate("Dear", FAST).text
        for scale in (0, 1e7)
    }
    assert texts[0] == free != texts[1e7]  # random weights push little


def test_a_guide_without_such_a_label_is_refused(family, tone):
    with pytest.raises(UsageError, match="has no label 'rainy'"):
        load("big", blend=Blend(guides=(f"{tone}:rainy",)))
