"""Drafts beside a causal core: `--draft`, what is told of them, and what they must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssdcli.api import Blend, Options, Placement, Request, Result, load
from ssdcli.errors import UsageError
from ssdcli.generation.drafts import drafting_of
from ssdcli.models.backbones.native_causal import NativeCausalBackbone
from tests.memories import CORE, add_notes
from tests.tiny import BLOCK, add_tiny

OPTIONS = Options(max_tokens=2 * BLOCK + 3, seed=3)
PROMPTS = ("Dear landlord, the boiler", "", "the stairs are the stairs are")
MEMBERS = [None, {"notes:memory": 0.9}, ["notes"]]


@pytest.fixture(autouse=True)
def notes() -> None:
    add_notes()


def told(result: Result) -> tuple[object, ...]:
    """What drafts may not change."""
    explained = [(one.token, one.text, one.source) for one in result.explain or ()]
    return result.text, result.tokens, result.finish_reason, explained


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize(
    "options",
    [
        Options(temperature=0.0),
        Options(temperature=0.7),
        Options(repetition_penalty=1.3, no_repeat=3),
        Options(explain=True, stop=("a",)),
    ],
    ids=["greedy", "sampled", "repetition", "explain"],
)
def test_a_text_is_that_of_no_draft(members: list[str] | None, options: Options) -> None:
    writer = load(CORE, members)
    requests = [Request(prompt) for prompt in PROMPTS]
    options = replace(options, seed=4, max_tokens=BLOCK + 3)
    plain = writer.generate_batch(requests, replace(options, draft=0))
    assert all(one.drafted == one.accepted == 0 for one in plain)
    for most in (None, 1, BLOCK):
        drafted = writer.generate_batch(requests, replace(options, draft=most))
        assert [told(one) for one in drafted] == [told(one) for one in plain]
    alone = [writer.generate(one.prompt, options, seed=one.seed, draft=BLOCK) for one in drafted]
    assert [(one.text, one.steps, one.drafted) for one in alone] == [
        (one.text, one.steps, one.drafted) for one in drafted
    ]


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_drafts_change_no_bit_of_a_packed_core(
    monkeypatch: pytest.MonkeyPatch, members: list[str] | None, temperature: float
) -> None:
    monkeypatch.setattr("ssdcli.generation.drafts._cost", lambda members: 0.01)  # so that much is drafted
    writer = load(CORE, members, placement=Placement("int8", device="cpu"))
    if not writer.members[0].model.denoiser.reader.drafts_alike:
        pytest.skip("this CPU's products round otherwise for other numbers of rows")
    options = replace(OPTIONS, temperature=temperature, explain=True)
    plain = writer.generate_batch([Request(prompt) for prompt in PROMPTS], replace(options, draft=0))
    drafted = writer.generate_batch([Request(prompt) for prompt in PROMPTS], options)
    alone = [writer.generate(one.prompt, options, seed=one.seed) for one in plain]
    for results in (drafted, alone):
        assert any(one.drafted for one in results)
        assert [(told(one), one.explain) for one in results] == [(told(one), one.explain) for one in plain]


def test_a_guided_text_is_drafted_and_is_that_of_no_draft(tone: Path) -> None:
    writer = load(CORE, ["notes"], blend=Blend(guides=(f"{tone}:sunny=1e4",)))
    drafted, plain = (writer.generate(PROMPTS[0], OPTIONS, draft=most) for most in (None, 0))
    assert drafted.text == plain.text != load(CORE, ["notes"]).generate(PROMPTS[0], OPTIONS).text
    assert drafted.drafted


def test_a_memory_that_knows_the_text_saves_most_passes_of_the_core() -> None:
    writer = load(CORE, {"notes:memory": 0.99})
    result = writer.generate(PROMPTS[0], OPTIONS, temperature=0.0, max_tokens=12)
    plain = writer.generate(PROMPTS[0], OPTIONS, temperature=0.0, max_tokens=12, draft=0)
    assert result.text == plain.text
    assert plain.steps == 12
    assert result.steps <= 6
    assert result.accepted is not None
    assert result.accepted >= 6
    assert result.steps == result.tokens - result.accepted
    core, memory = result.members
    assert core.forward_passes == result.steps == memory.forward_passes
    assert core.flops < plain.members[0].flops * (12 + (result.drafted or 0)) / 12 + 1


def test_the_work_of_a_step_counts_each_position_that_it_predicts() -> None:
    writer = load(CORE, ["notes"])
    result, plain = (writer.generate(PROMPTS[0], OPTIONS, draft=most) for most in (None, 0))
    assert result.drafted
    for one, other in zip(result.members[:2], plain.members[:2], strict=True):
        rejected = result.drafted - (result.accepted or 0)
        assert one.flops >= other.flops
        assert one.flops <= other.flops * (plain.steps + rejected) / plain.steps + 1


def test_gaps_are_filled_as_without_drafts() -> None:
    writer = load(CORE, ["notes"])
    options = replace(OPTIONS, infill=True, gap=5, temperature=0.8)
    prompt = "Dear landlord, the ____ is cold. The stairs ____ again."
    assert writer.generate(prompt, options).text == writer.generate(prompt, replace(options, draft=0)).text


def test_a_window_that_slides_gives_the_text_of_no_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = load(CORE, {"notes:memory": 0.5})
    monkeypatch.setattr(writer.members[0].model.denoiser.backbone, "context", 3 * BLOCK)
    options = replace(OPTIONS, max_tokens=6 * BLOCK)
    assert writer.generate(PROMPTS[0], options).text == writer.generate(PROMPTS[0], options, draft=0).text


def test_a_limit_on_copies_holds_in_drafts() -> None:
    writer = load(CORE, {"notes:memory": 0.99})
    options = replace(OPTIONS, temperature=0.0, max_copy=3)
    assert writer.generate(PROMPTS[0], options).text == writer.generate(PROMPTS[0], options, draft=0).text
    assert not writer.generate(PROMPTS[0], options).text.startswith(" is cold.\nThe stairs")


def test_a_draft_is_refused_where_there_can_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = load(CORE, ["notes"])
    with pytest.raises(UsageError, match=f"a draft of {BLOCK + 1} tokens is longer than a block, which has {BLOCK}"):
        writer.generate("Dear", OPTIONS, draft=BLOCK + 1)
    with pytest.raises(UsageError, match="from the left"):
        writer.generate("Dear", OPTIONS, draft=2, sampler="top-k")
    with pytest.raises(UsageError, match="one by one"):
        writer.generate("Dear", OPTIONS, draft=2, steps=BLOCK // 2)
    with pytest.raises(UsageError, match="schedule"):
        load(CORE, ["notes"], blend=Blend(schedule="leaning")).generate("Dear", OPTIONS, draft=2)
    with pytest.raises(UsageError, match="-1"):
        replace(OPTIONS, draft=-1)
    monkeypatch.setattr(NativeCausalBackbone, "forgets", True)
    assert writer.generate("Dear", OPTIONS).drafted == 0
    with pytest.raises(UsageError, match="cannot be cut"):
        writer.generate("Dear", OPTIONS, draft=2)


def test_a_draft_needs_a_causal_core() -> None:
    add_tiny("big", 1)
    assert load("big").generate("Dear", OPTIONS).drafted is None
    with pytest.raises(UsageError, match="no causal language model to verify a draft"):
        load("big").generate("Dear", OPTIONS, draft=2)


@pytest.mark.parametrize(("in_16_bits", "cost"), [(True, 0.05), (False, 0.2)])
def test_a_draft_is_as_long_as_its_tokens_are_cheap(in_16_bits: bool, cost: float) -> None:
    writer = load(CORE, ["notes"])
    reader = writer.members[0].model.denoiser.reader
    assert isinstance(reader, NativeCausalBackbone)
    reader.in_16_bits = in_16_bits
    drafting = drafting_of(writer.members, writer._reverse(OPTIONS), None)
    assert drafting is not None
    assert drafting.cost == cost
