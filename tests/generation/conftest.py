"""A family of models, and what its members are given to read."""

from __future__ import annotations

import pytest
import torch

from ssdcli.engine.denoiser import Denoiser
from tests.tiny import VOCABULARY, add_family, tiny_tokenizer


@pytest.fixture
def family():
    add_family()


@pytest.fixture
def starts(monkeypatch):
    """The prompts that each denoiser was given."""
    seen = {}
    start = Denoiser.start

    def spy(self, prompts):
        seen[self] = prompts
        return start(self, prompts)

    monkeypatch.setattr(Denoiser, "start", spy)
    return seen


@pytest.fixture
def tone(tmp_path):
    """The folder of a classifier with random weights over the tiny tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            id2label={0: "dark", 1: "sunny"},
        )
        BertForSequenceClassification(config).save_pretrained(tmp_path / "tone")
    (tmp_path / "tone" / "tokenizer.json").write_text(tiny_tokenizer().to_str(), encoding="utf-8")
    return tmp_path / "tone"
