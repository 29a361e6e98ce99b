"""Several models beside one core: each counts by how likely it is to have written the text so far."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ssdcli.api import Blend, Options, Request, load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.code_length import CodeSettings, conditionals
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.row import Row
from ssdcli.generation.writer import Writer
from tests.memories import CORE, NOTES, add_notes, give_memory
from tests.tiny import BLOCK

MAIL = ("The parcel has come, and the invoice is open.\n", "An invoice is open, and the parcel is at the door.\n")
OPTIONS = Options(max_tokens=2 * BLOCK + 3, seed=3, explain=True)
PROMPTS = (NOTES[0][:40], MAIL[0][:30], "", "The parcel is cold and dark.")
MEMBERS = ["notes:memory", "mail:memory"]


@pytest.fixture(autouse=True)
def models() -> None:
    add_notes()
    add_notes("mail")
    give_memory("mail", MAIL)


def counts(writer: Writer, prompt: str, options: Options = OPTIONS) -> dict[str, float]:
    weights = writer.generate(prompt, options).weights
    assert weights is not None
    assert sum(weights.values()) == pytest.approx(1)
    return weights


@pytest.mark.parametrize("members", [MEMBERS, ["notes", "mail"]])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_text_and_its_weights_are_those_of_no_draft_alone_and_in_a_batch(
    members: list[str], temperature: float
) -> None:
    writer, options = load(None, members), replace(OPTIONS, temperature=temperature)
    plain = writer.generate_batch([Request(prompt) for prompt in PROMPTS], replace(options, draft=0))
    for most in (None, 2, BLOCK):
        drafted = writer.generate_batch([Request(prompt) for prompt in PROMPTS], replace(options, draft=most))
        for one, other in zip(drafted, plain, strict=True):
            assert one.text == other.text
            assert one.weights == pytest.approx(other.weights, abs=1e-4)
    for one in plain:
        alone = writer.generate(one.prompt, replace(options, draft=0), seed=one.seed)
        assert (alone.text, alone.weights) == (one.text, one.weights)


def test_the_model_that_has_such_text_counts_most() -> None:
    writer = load(None, MEMBERS)
    assert counts(writer, PROMPTS[0])["notes"] > 0.8
    assert counts(writer, PROMPTS[1])["mail"] > 0.8
    assert counts(writer, "", replace(OPTIONS, max_tokens=1)) == pytest.approx({"notes": 0.5, "mail": 0.5})
    result = writer.generate(PROMPTS[0], OPTIONS)
    assert result.explain is not None
    for name in ("notes", "mail"):
        own = [token.weights[name] for token in result.explain if token.weights is not None]
        assert result.to_json()["weights"][name] == pytest.approx(sum(own) / result.tokens)


@pytest.mark.parametrize("prompt", list(filter(None, PROMPTS)))
def test_the_exact_probability_of_a_text_is_that_with_which_it_was_written(prompt: str) -> None:
    writer = load(None, MEMBERS)
    rows = list(writer.rows([Request(prompt)], OPTIONS))
    (*_, (_, last)) = writer.write(rows, OPTIONS)
    assert last.result is not None
    assert last.result.explain is not None
    before, written = writer.codec.encode(prompt), [token.token for token in last.result.explain]
    opening = writer.members[0].model.format.opening
    combination = Combination(writer.ensemble.rule, tuple(one.weight_at for one in writer.members))
    whole = ScoredText([opening, *before, *written], 0)
    after = replace(whole, scored=[False] * (1 + len(before)) + [True] * len(written))
    for text in (whole, after):
        parts = conditionals(writer.members, text, combination, CodeSettings())
        exact = torch.cat(list(parts))[-len(written) :][range(len(written)), written].exp()
        assert exact.tolist() == pytest.approx([token.p for token in last.result.explain], abs=1e-4)


def test_without_a_name_for_the_rule_one_model_is_no_ensemble_of_several() -> None:
    assert load(None, ["notes"]).generate("Dear", OPTIONS).weights is None
    assert "weights" not in load(None, MEMBERS, blend=Blend("average")).generate("Dear", OPTIONS).to_json()


def test_other_samplers_and_gaps_weigh_by_the_text_before_the_block() -> None:
    writer = load(None, ["notes", "mail"])
    options = replace(OPTIONS, max_tokens=3 * BLOCK)
    assert counts(writer, PROMPTS[0], replace(options, sampler="top-k"))
    gaps = replace(options, infill=True, gap=5, temperature=0.8, draft=0)
    one = writer.generate("Dear landlord, the ____ is cold.", gaps)
    assert one.text == writer.generate("Dear landlord, the ____ is cold.", replace(gaps, draft=None)).text


def test_what_a_core_says_of_the_end_of_a_prompt_is_what_it_says_of_a_whole_text() -> None:
    denoiser = load(CORE).members[0].model.denoiser
    assert isinstance(denoiser, CausalDenoiser)
    prompts = [Prompt((1, *range(7, 7 + length))) for length in (9, 30, 5)]
    prefixes = denoiser.start(prompts)
    for row, prompt in enumerate(prompts):
        found = torch.stack(list(denoiser.recent(prompt, 4, prefixes, row)))
        states = denoiser.states(torch.tensor([prompt.before]))[0, -5:-1]
        torch.testing.assert_close(found, denoiser.log_p(states), atol=1e-4, rtol=1e-4)


def test_prompts_are_judged_by_what_they_end_with_alike() -> None:
    writer = load(None, MEMBERS)
    rule = writer.ensemble.rule
    assert isinstance(rule, Switching)

    def known(*befores: list[int]) -> torch.Tensor:
        prompts = [[Prompt(before)] for before in befores]
        found = writer.ensemble.heard(prompts, writer.ensemble.start(prompts, [1.0]))
        assert found is not None
        return found

    ids = writer.codec.encode(PROMPTS[1])
    usual = known(ids, ids, ids)
    assert float(usual[0, 1].exp()) > 0.8
    assert torch.equal(known(ids[:1], [5, ids[0]], ids[:1]), rule.even(1, usual.device))
    seen = known([*ids, *ids], ids, ids)
    assert float(seen[0, 1].exp()) > 0.8


def test_a_row_says_nothing_of_weights_before_it_has_a_token() -> None:
    (row,) = load(None, MEMBERS).rows([Request("Dear")], OPTIONS)
    assert isinstance(row, Row)
    assert row.weights is None
