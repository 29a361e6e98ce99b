"""A judge's losses are those of its model, and what is no causal model is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ssdcli.errors import SsdError
from ssdcli.models.judge import load_judge
from tests.checkpoints import write_checkpoint
from tests.tiny import TEXT, tiny_tokenizer

PROMPT, REST = "Dear landlord, the boiler", " is cold again and the stairs are dark."


@pytest.fixture
def qwen(tmp_path):
    """A judge, and the model that it is made of."""
    model = write_checkpoint(tmp_path / "qwen3")
    return load_judge(tmp_path / "qwen3"), model


def test_a_text_loses_what_the_model_loses_after_the_prompt(qwen):
    judge, model = qwen
    found = judge.read(PROMPT, REST)
    ids = tiny_tokenizer().encode(PROMPT + REST).ids
    known = len(tiny_tokenizer().encode(PROMPT).ids)
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    losses = [-float(log_p[place - 1, ids[place]]) for place in range(known, len(ids))]
    assert found.tokens == len(losses) == len(ids) - known
    assert found.nats == pytest.approx(sum(losses), rel=1e-4)
    assert found.features.shape == (model.config.hidden_size,)


def test_a_text_of_nothing_loses_nothing(qwen):
    judge, _ = qwen
    assert (judge.read(PROMPT, "").nats, judge.read(PROMPT, "").tokens) == (0, 0)


def test_without_a_prompt_all_but_the_first_token_is_scored(qwen):
    judge, _ = qwen
    assert judge.read("", REST).tokens == len(tiny_tokenizer().encode(REST).ids) - 1


def test_it_reads_as_far_as_its_window_goes(tmp_path):
    write_checkpoint(tmp_path, max_position_embeddings=16)
    judge = load_judge(tmp_path)
    assert judge.read("", TEXT * 9).tokens == 15
    np.testing.assert_array_equal(judge.read("", TEXT * 9).features, judge.read("", TEXT * 8).features)


@pytest.mark.parametrize(
    ("kind", "spoil", "said"),
    [
        ("roberta", lambda folder: None, "is not a trained causal language model"),
        ("qwen3", lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        ("qwen3", lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json cannot be read"),
        (
            "qwen3",
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "cannot be read",
        ),
    ],
    ids=["masked", "no weights", "no tokenizer", "pickled weights"],
)
def test_what_cannot_judge_is_refused_in_a_sentence(tmp_path, kind, spoil, said):
    write_checkpoint(tmp_path, kind)
    spoil(tmp_path)
    with pytest.raises(SsdError, match=said):
        load_judge(tmp_path)


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    write_checkpoint(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(SsdError, match="not a trained causal"):
        load_judge(tmp_path)


def test_reading_a_judge_writes_nothing(tmp_path, capfd):
    write_checkpoint(tmp_path)
    capfd.readouterr()
    load_judge(tmp_path)
    assert capfd.readouterr() == ("", "")
