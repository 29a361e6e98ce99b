"""The probability of a word is that of its tokens, and an author that says what is given does not diverge from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdcli.api import load
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.evaluation.code_length import CodeSettings, conditionals
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.evaluate import evaluate
from ssdcli.evaluation.next_words import Words, agreement, word_log_p
from ssdcli.evaluation.scored_text import scored_text
from tests.memories import CORE, add_notes
from tests.tiny import add_family, tiny_tokenizer

BEFORE = "Dear landlord, the"
WORDS = ["boiler", "stairs", "x", "boilerplate again"]


@pytest.mark.parametrize("members", [None, ["notes"], {"notes:memory": 0.3}])
def test_the_probability_of_a_word_is_that_of_its_tokens_in_the_text(members) -> None:
    add_notes()
    writer = load(CORE, members)
    found = word_log_p(writer, BEFORE, WORDS)
    combination = Combination(writer.ensemble.rule, tuple(Constant(one.weight) for one in writer.members))
    for word, log_p in zip(WORDS, found.tolist(), strict=True):
        text = scored_text(f"{BEFORE} {word}", tiny_tokenizer(), 0)
        said = torch.cat(list(conditionals(writer.members, text, combination, CodeSettings())))
        own = said[range(len(said)), list(text.tokens[1:])]
        count = len(tiny_tokenizer().encode(f" {word}").ids)
        assert log_p == pytest.approx(float(own[-count:].sum()), abs=2e-3)


def test_an_author_that_says_what_is_given_does_not_diverge_and_agrees_in_all() -> None:
    shares = np.array([0.6, 0.3, 0.1])
    same = agreement("core", [Words(0, shares, np.log(shares)), Words(3, shares, np.log(shares))])
    assert (same.places, same.divergence.value, same.top.value) == (2, pytest.approx(0), 1)
    assert same.correlation == pytest.approx(1)
    other = agreement("core", [Words(0, shares, np.log(shares[::-1]))])
    assert other.divergence.value == pytest.approx(0.5 * np.log(6))
    assert (other.top.value, other.correlation < 0) == (0, True)
    flat = agreement("core", [Words(0, np.full(2, 0.5), np.log([0.5, 0.5]))])
    assert flat.to_json()["correlation"] is None


@pytest.fixture
def norms(tmp_path: Path) -> str:
    text = "Dear landlord, the boiler is cold again, for the {}. time, and the stairs are dark."
    rows = [{"text": text.format(n), "cloze": [{"at": 18, "words": {"boiler": 3, "lift": 1}}]} for n in range(5)]
    file = tmp_path / "norms.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_eval_compares_core_small_model_and_ensemble_with_what_rows_give(norms: str) -> None:
    add_notes()
    quick = EvalSettings(rules=("average",), schedules=("constant",), cloze=True)
    found = evaluate([norms], members=["notes"], settings=quick).to_json()["cloze"]
    assert [(one["name"], one["places"]) for one in found] == [(CORE, 5), ("notes", 5), ("ensemble", 5)]
    assert list(found[0]) == ["name", "places", "divergence", "correlation", "top_word"]
    writer = load(CORE)
    log_p = word_log_p(writer, BEFORE, ["boiler", "lift"]).double()
    expected = 0.75 * (np.log(0.75) - log_p[0]) + 0.25 * (np.log(0.25) - log_p[1])
    assert found[0]["divergence"]["value"] == pytest.approx(float(expected), abs=2e-3)


def test_what_cannot_be_compared_is_refused(norms: str, tmp_path: Path) -> None:
    add_notes()
    quick = EvalSettings(rules=("average",), schedules=("constant",), cloze=True)
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"text": "Dear landlord, the boiler is cold."}) + "\n")
    with pytest.raises(UsageError, match="no row of this text gives words"):
        evaluate([str(plain)], members=["notes"], settings=quick)
    add_family()
    with pytest.raises(UsageError, match=r"exact only beside a causal.*omit --cloze"):
        evaluate([norms], core="big", settings=quick)


def test_a_masked_core_is_compared_from_the_left(norms: str) -> None:
    add_family()
    quick = EvalSettings(rules=("mix",), schedules=("constant",), cloze=True, exact=True)
    (found,) = evaluate([norms], core="big", settings=quick).to_json()["cloze"]
    assert found["places"] == 5
    writer = load("big")
    denoiser = writer.members[0].model.denoiser
    ids = tiny_tokenizer().encode(" boiler").ids
    prompt = Prompt(tiny_tokenizer().encode(BEFORE).ids)
    canvas, expected = torch.full((1, denoiser.block_size), denoiser.process.mask_id), 0.0
    for place, token in enumerate(ids):
        said = writer.ensemble.denoise(canvas, 1.0, None, writer.ensemble.start([[prompt]], [1.0]))
        expected += float(said.log_p[0, place, token])
        canvas[0, place] = token
    assert word_log_p(writer, BEFORE, ["boiler"])[0] == pytest.approx(expected, abs=1e-3)
