"""What ensembles write beside a causal core."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle

import pytest

from ssdcli.api import Blend, Options, Request, choose, load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.errors import UsageError
from ssdcli.generation import prompt_encoder
from tests.pulled import add_causal
from tests.tiny import BLOCK, add_tiny, tiny_tokenizer

TOKENS = 2 * BLOCK + 3
OPTIONS = Options(max_tokens=TOKENS, seed=3)


@pytest.fixture(autouse=True)
def models():
    """A causal core, and `notes`, made for it."""
    add_causal("core")
    add_tiny("notes", 2, kind="small", core="core", weight=0.3)


def test_a_seed_gives_the_same_text_alone_in_a_batch_and_as_one_of_n():
    writer = load(None, ["notes"])
    requests = [Request(prompt) for prompt in ("Dear", "", "the boiler is cold again " * 3)]
    results = writer.generate_batch(requests, replace(OPTIONS, n=2))
    for result in results:
        alone = writer.generate(result.prompt, OPTIONS, seed=result.seed)
        assert alone.text == result.text
        assert alone.members == result.members
    assert len({result.text for result in results}) == len(results)


def test_the_order_is_from_the_left_unless_another_is_named():
    writer = load(None, ["notes"])
    usual = writer.generate("Dear", OPTIONS)
    assert writer.generate("Dear", OPTIONS, sampler="left-to-right").text == usual.text
    assert usual.steps == TOKENS
    assert [member.forward_passes for member in usual.members] == [TOKENS, TOKENS]
    others = {writer.generate("Dear", OPTIONS, sampler=name).text for name in ("top-k", "ancestral")}
    assert usual.text not in others


def test_beside_others_a_core_may_be_asked_for_fewer_steps():
    assert load(None, ["notes"]).generate("Dear", OPTIONS, steps=4).steps == 4 + 4 + 2  # two tokens a step
    assert load(None, ["notes"]).generate("Dear", OPTIONS, sampler="threshold=0.5", remask=0.2).tokens


@pytest.mark.parametrize("members", [None, ["notes"]])
def test_a_prompt_without_a_token_is_an_opening(members):
    assert load("core", members).generate("", OPTIONS).tokens > 0


def test_a_core_that_reads_a_private_context_says_what_one_says_that_is_shown_it():
    private = choose("core", {"context": 1.0}, context=True).open()
    told = private.generate("Dear", OPTIONS, context="the stairs are cold")
    assert told.text == load("core").generate("the stairs are cold\n\nDear", OPTIONS).text
    assert told.text != load("core").generate("Dear", OPTIONS).text
    assert [(one.name, one.weight) for one in told.members] == [("core", 0.0), ("context", 1.0)]


def test_of_a_long_private_context_the_core_reads_what_is_most_like_the_prompt(monkeypatch):
    monkeypatch.setattr(prompt_encoder, "_IN_VIEW", 32)
    private = choose("core", {"context": 1.0}, context=True).open()
    boiler = "the boiler is cold"
    told = private.generate("Dear boiler", OPTIONS, context="\n\n".join(["stairs " * 20, boiler, "landlord " * 20]))
    assert told.text == private.generate("Dear boiler", OPTIONS, context=boiler).text
    assert told.warnings[0].startswith("'context' reads ")
    assert told.warnings[0].endswith("tokens: the passages most like the prompt.")


ALONE = "a causal language model predicts one token at a time, and there is no other prediction at each step."


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": 4}, f"4 steps for {BLOCK} tokens: {ALONE} Give --steps {BLOCK} or omit it."),
        ({"remask": 0.1}, f"remask 0.1: {ALONE} Omit --remask."),
        ({"early_stop": 0.5}, f"early stop 0.5: {ALONE} Omit --early-stop."),
        ({"sampler": "top-k=3", "steps": 5}, f"5 steps for {BLOCK} tokens"),
    ],
)
def test_a_core_alone_is_not_asked_for_several_tokens_at_once(changes, problem):
    with pytest.raises(UsageError) as caught:
        load("core").generate("Dear", OPTIONS, **changes)
    assert str(caught.value).startswith(problem)


def test_an_ending_is_scored_where_a_block_is_predicted_at_once():
    assert load(None, ["notes"]).score("Dear", [" landlord"])
    with pytest.raises(UsageError, match="does not predict a block at once"):
        load("core").score("Dear", [" landlord"])


def test_a_contrast_with_a_causal_core_takes_a_step_for_each_token():
    writer = load(None, ["notes"], blend=Blend(rule="contrast"))
    assert writer.generate("Dear", OPTIONS, context="cold").steps == TOKENS
    with pytest.raises(UsageError, match=f"4 steps for {BLOCK} tokens"):
        writer.generate("Dear", OPTIONS, context="cold", steps=4)


def test_a_schedule_may_pause_the_core():
    writer = load(None, ["notes"], blend=Blend(schedule="sandwich:0.5"))
    core, notes = writer.generate("Dear", OPTIONS).members
    assert 0 < core.forward_passes < notes.forward_passes == TOKENS


def test_every_sampler_writes_a_whole_text_beside_a_causal_core():
    core, samplers = (
        load("core"),
        ("top-k", "threshold", "entropy-bound", "ancestral", "left-to-right", "left-to-right=0.5"),
    )
    for name, schedule in zip(samplers, cycle(("constant", "leaning", "sandwich"))):
        assert core.generate("Dear", OPTIONS, sampler=name, max_tokens=BLOCK).steps
        writer = load(None, ["notes"], blend=Blend(schedule=schedule))
        ids = tiny_tokenizer().encode(writer.generate("Dear", OPTIONS, sampler=name, max_tokens=BLOCK).text).ids
        assert 1 not in ids


def test_a_text_ends_before_a_stop_string():
    text = load("core").generate("Dear", OPTIONS).text
    stop = text[4:7]
    stopped = load("core").generate("Dear", OPTIONS, stop=(stop,))
    assert stopped.text == text[: text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.steps == stopped.tokens  # and none to the end of the block


def test_a_text_that_stops_early_takes_the_steps_of_its_own_in_a_batch():
    writer = load(None, ["notes"])
    requests = [Request("Dear", seed=3), Request("stairs are dark", seed=4)]
    stop = (writer.generate("Dear", OPTIONS).text[2:4],)
    results = writer.generate_batch(requests, replace(OPTIONS, stop=stop))
    alone = [writer.generate(one.prompt, OPTIONS, seed=one.seed, stop=stop) for one in requests]
    assert [(one.text, one.members) for one in results] == [(one.text, one.members) for one in alone]
    assert results[0].steps < TOKENS


def test_every_token_is_explained():
    explained = load(None, ["notes"]).generate("Dear", OPTIONS, explain=True).explain
    assert explained
    assert all(sum(token.by.values()) == pytest.approx(1, abs=1e-5) for token in explained)
    alone = load("core").generate("Dear", OPTIONS, explain=True).explain
    assert alone
    assert all(token.by == {"core": 1.0} for token in alone)


def test_the_core_sees_nothing_behind_a_gap(monkeypatch):
    seen = []
    start = CausalDenoiser.start
    monkeypatch.setattr(CausalDenoiser, "start", lambda self, prompts: seen.extend(prompts) or start(self, prompts))
    result = load(None, ["notes"]).generate("The ____ is cold.", Options(infill=True, gap=10, seed=1))
    assert result.text.startswith("The")
    assert result.text.endswith("is cold.")
    assert all(prompt.after == () for prompt in seen)
