from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.lib.causal import (
    CausalWriter,
    NextToken,
    Twin,
    gap_losses,
    log_p_next,
    save_for_transformers,
    text_losses,
    train_causal,
    traits_of,
    twin_of,
)
from benchmarks.lib.gaps import Gap
from ssdcli.data.layout import in_blocks
from ssdcli.data.marking import CLOSING, WRITTEN
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.types import Options, Request
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from tests.tiny import tiny_backbone, tiny_tokenizer
from tests.trainings import tiny_settings, write_text

TOKENS = torch.tensor([[0, 40, 41, 42, 43, 44, 45, 46]])


def twin(seed: int = 0) -> BlockDiffusionLM:
    return tiny_backbone(seed, timed=False, self_conditioned=False)


def exact(model: BlockDiffusionLM, tokens: torch.Tensor) -> float:
    """-log p of a text after its first token."""
    log_p = log_p_next(model, tokens[:, :-1]).gather(-1, tokens[:, 1:, None])
    return -float(log_p.sum())


def test_what_comes_later_changes_nothing_before_it() -> None:
    changed = TOKENS.clone()
    changed[0, 5] = 99
    before, after = log_p_next(twin(), TOKENS), log_p_next(twin(), changed)
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


def test_a_twin_has_the_parameters_of_its_model_but_for_noise() -> None:
    model = tiny_backbone(process="simplex")
    own = dict(BlockDiffusionLM(twin_of(model.config)).named_parameters())
    left = {name: weight for name, weight in model.named_parameters() if name not in own}
    assert {name.partition(".")[0] for name in left} == {"time", "self_conditioning"}


def test_the_loss_of_a_training_is_that_of_its_texts() -> None:
    model = twin()
    tokens = np.array([0, *range(40, 52), 0])
    marks = np.array([CLOSING, *[WRITTEN] * 12, CLOSING])
    packed = in_blocks(tokens, marks, 1, 1)
    loss = NextToken(model)(vars(packed), torch.tensor([0]))
    assert float(loss) == pytest.approx(exact(model, packed.tokens) / 13, rel=1e-4)


def test_a_document_costs_what_its_tokens_cost_one_after_the_other() -> None:
    passages = [ScoredText(TOKENS[0].tolist(), 1), ScoredText([0, 50, 51], 1)]
    models = (twin(0), twin(1))
    columns = text_losses(models, passages, [0.0, 1.0], 64)
    expected = [[exact(model, torch.tensor([passage.tokens])) for model in models] for passage in passages]
    assert columns.sums == pytest.approx(np.array(expected), rel=1e-5)
    assert columns.tokens.tolist() == [7, 2]


def test_every_token_counts_once_whatever_the_windows() -> None:
    whole = text_losses((twin(), twin()), [ScoredText(TOKENS[0].tolist(), 1)], [0.0], 64)
    cut = text_losses((twin(), twin()), [ScoredText(TOKENS[0].tolist(), 1)], [0.0], 4)
    parts = exact(twin(), TOKENS[:, :4]) + exact(twin(), TOKENS[:, 3:])
    assert cut.sums[0, 0] == pytest.approx(parts, rel=1e-5)
    assert cut.tokens == whole.tokens


def test_a_gap_is_filled_from_its_left_side_alone() -> None:
    gap = Gap(0, [0, 40, 41], [42, 43, 44, 45], 4, [46], 0)
    other = replace(gap, after=[99, 98])
    columns = gap_losses((twin(), twin(1)), [gap], [0.0, 0.5])
    expected = exact(twin(), TOKENS[:, :7]) - exact(twin(), TOKENS[:, :3])
    assert columns.sums[0, 0] == pytest.approx(expected, rel=1e-5)
    assert (gap_losses((twin(), twin(1)), [other], [0.0, 0.5]).sums == columns.sums).all()


def test_an_ending_scores_the_mean_of_its_tokens_log_probabilities() -> None:
    tokenizer = tiny_tokenizer()
    writer = CausalWriter((twin(0), twin(1)), 1.0, tokenizer)
    prompt, ending = "the boiler", " is cold"
    before = [0, *tokenizer.encode(prompt).ids]
    after = tokenizer.encode(ending).ids
    whole, part = (torch.tensor([ids]) for ids in (before + after, before))
    expected = -(exact(twin(1), whole) - exact(twin(1), part)) / len(after)
    assert writer.score(prompt, [ending, " is"])[0] == pytest.approx(expected, rel=1e-4)


def test_writing_goes_on_with_the_likeliest_token() -> None:
    tokenizer = tiny_tokenizer()
    writer = CausalWriter((twin(0), twin(1)), 0.0, tokenizer)
    (text,) = writer.generate_batch([Request("the boiler")], Options(max_tokens=1))
    tokens = torch.tensor([[0, *tokenizer.encode("the boiler").ids]])
    likeliest = int(log_p_next(twin(0), tokens)[0, -1].argmax())
    assert text.text == tokenizer.decode([likeliest])


def test_transformers_reads_a_twin_as_the_model_that_it_is(tmp_path: Path) -> None:
    tokenizer = tmp_path / "own.json"
    tokenizer.write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    save_for_transformers(twin(), tokenizer, tmp_path / "twin")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "twin")
    assert (tmp_path / "twin" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    logits = read(input_ids=TOKENS).logits.index_fill(-1, twin().vocabulary.muted, -torch.inf)
    assert torch.allclose(logits.log_softmax(-1), log_p_next(twin(), TOKENS), atol=1e-4)


def test_a_training_learns_its_text_and_leaves_what_it_saved(tmp_path: Path) -> None:
    data = write_text(tmp_path / "text.txt")
    settings = replace(tiny_settings(data), steps=40, checkpoint_seconds=60.0)
    (tmp_path / "tokenizer.json").write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    begin = Twin(twin().config, tmp_path / "tokenizer.json", traits_of(twin()))
    made = train_causal(settings, begin, tmp_path / "twin", time.monotonic)
    assert made.steps == 40
    assert made.heldout < 5
    assert torch.equal(load_backbone(tmp_path / "twin").table, made.model.table)
    assert not (tmp_path / "twin.work").exists()
