from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.lib.exact_order import QUERY, Averaged, Texts, nats_from_the_left, report, retrieved
from benchmarks.lib.next_token import Budget, Notes, SideNetwork, nats_of, train_lora, train_side_network
from benchmarks.lib.ngram import NGram
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from tests.tiny import VOCABULARY, tiny_backbone

V = 50
NOTES = [[0, *[3, 4, 5, 6, 7] * 8] for _ in range(20)]


def causal() -> Any:
    """A causal LM with lively random weights."""
    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=V, tie_word_embeddings=True, initializer_range=0.3, **shape)
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def test_an_n_gram_predicts_all_tokens_with_a_probability_of_one_in_all() -> None:
    model = NGram([[0, 1, 2, 1, 2, 3], [0, 1, 3]], V)
    for context in ([], [0], [0, 1], [1, 2], [9, 9], [0, 1, 2, 1, 2]):
        assert sum(model.p(context, token) for token in range(V)) == pytest.approx(1)


def test_an_n_gram_backs_off_as_witten_and_bell_say() -> None:
    model = NGram([[1, 2, 1, 2, 1, 3]], V, order=1)
    unigram = (2 + 3 / V) / (6 + 3)
    assert model.p([], 2) == pytest.approx(unigram)
    assert model.p([1], 2) == pytest.approx((2 + 2 * unigram) / (3 + 2))
    assert model.p([7], 2) == pytest.approx(unigram)


def test_a_causal_lm_loses_what_its_log_probabilities_say_also_after_other_text() -> None:
    text, before = [0, 5, 9, 7], [0, 8, 8]
    log_p = causal()(torch.tensor([before + text])).logits.log_softmax(-1)[0, len(before) : -1]
    expected = [-float(row[token]) for row, token in zip(log_p, text[1:], strict=True)]
    assert nats_of(causal(), text, before) == pytest.approx(expected, rel=1e-4)


def test_a_side_network_begins_as_the_core() -> None:
    text = [0, 5, 9, 7, 3, 3]
    assert SideNetwork(causal()).nats(text) == pytest.approx(nats_of(causal(), text), rel=1e-4)


@pytest.mark.parametrize("train", [train_side_network, lambda *given: train_lora(*given, rank=4)])
def test_what_is_trained_on_notes_predicts_notes_better_and_leaves_the_core_alone(train: Any) -> None:
    core = causal()
    before = {name: weight.clone() for name, weight in core.named_parameters()}
    fitted = train(core, Notes.split(NOTES), Budget(2.0, 1e-2))
    assert np.mean(fitted.losses(NOTES[0])) < 0.7 * np.mean(nats_of(core, NOTES[0]))
    assert all(torch.equal(weight, before[name]) for name, weight in core.named_parameters())


def test_notes_are_looked_up_by_the_beginning_which_is_measured_without_them() -> None:
    text = [0, *range(3, 3 + QUERY), 40, 41, 42]
    texts = Texts([[0, 45, 46], [0, 3, 4, 5], [0, 48, 49]], [text], [1])
    (found,) = retrieved(causal(), texts, len(text) + 7)
    alone, after = nats_of(causal(), text), nats_of(causal(), text, [0, 45, 46, 0, 3, 4, 5])
    assert found[:QUERY] == pytest.approx(alone[:QUERY], abs=1e-3)
    assert found[QUERY:] == pytest.approx(after[QUERY:], rel=0.05)  # in bfloat16
    assert found[QUERY:] != pytest.approx(alone[QUERY:], rel=0.05)


def test_a_masked_model_loses_from_the_left_what_it_says_of_each_token_with_the_rest_hidden() -> None:
    process = Masked(VOCABULARY, 1)
    denoiser = Denoiser(tiny_backbone(0, process="masked"), process)
    text = [0, *torch.randint(3, 40, (30,)).tolist()]
    model: Any = type("Model", (), {"denoiser": denoiser})()
    size, expected = denoiser.backbone.block_size, []
    for place in range(1, len(text)):
        start = 1 + (place - 1) // size * size
        canvas = torch.full((1, size), 1)
        canvas[0, : place - start] = torch.tensor(text[start:place])
        log_p = denoiser.denoise(canvas, 1.0, None, denoiser.start([Prompt(text[:start])]))
        expected.append(-float(log_p[0, place - start, text[place]]))
    assert nats_from_the_left(model, text) == pytest.approx(expected, rel=1e-3)


def test_one_member_is_averaged_with_nothing() -> None:
    found = Averaged.of([[[1.0, 2.0], [3.0]]])
    assert found.sums == pytest.approx([3.0, 3.0])
    assert found.shares() == ""


def test_a_document_has_no_say_in_the_weights_that_it_is_measured_by() -> None:
    # The even documents are likeliest under the first member, the odd ones under the second.
    good, bad = [0.1, 0.1], [5.0, 5.0]
    found = Averaged.of([[good, bad, good, bad], [bad, good, bad, good]])
    assert found.weights == pytest.approx(np.array([[0.0, 1.0], [1.0, 0.0]]), abs=0.01)
    assert found.sums == pytest.approx([10.0] * 4, rel=0.01)


def test_an_average_of_members_that_are_good_in_turn_beats_both() -> None:
    found = Averaged.of([[[0.1, 3.0]] * 4, [[3.0, 0.1]] * 4])
    assert found.weights == pytest.approx(np.full((2, 2), 0.5), abs=0.01)
    assert found.sums[0] < 2.0


def test_a_table_has_the_ways_whose_members_were_made_and_bits_of_all_bytes() -> None:
    nats = [[math.log(2)] * 8, [math.log(2)] * 4]
    lines: dict[str, Any] = {
        "core": {"nats": nats, "bytes": [10, 2]},
        "n-gram": {"nats": nats, "bytes": [10, 2], "steps": 0},
    }
    lines["n-gram"] |= {"parameters": 7}
    told = report(("notes", 2.0, 0), lines)
    rows = [line.split(" | ")[:3] for line in told.splitlines() if line.startswith("| an n-gram")]
    assert rows == [["| an n-gram alone", "0.693", "1.000"], ["| an n-gram and the core", "0.693", "1.000"]]
    assert "2 documents, 12 tokens, 12 bytes; n-gram: 0 steps, 7 parameters" in told
    assert "LoRA" not in told
