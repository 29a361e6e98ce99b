"""A causal core that can write, SmolLM2, against transformers' own reading of the same GGUF file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import ssdcli
from ssdcli.generation.types import Options, Request
from ssdcli.models.auto_model import quiet

PROMPTS = (
    "Dear landlord,",
    "What is the capital of France?",
    "Write a haiku about rain.",
    "List three uses for a brick.",
    "Explain photosynthesis to a child.",
    "def fibonacci(n):",
    "Tell me a joke.",
    "How do I boil an egg?",
    "Translate 'good morning' into Spanish.",
    "Who wrote Hamlet?",
)
NEW = 18  # tokens: more than a block
EXACT = ssdcli.Placement("float32")


@pytest.fixture(scope="module")
def native(real_gguf) -> Any:
    """The model as transformers reads it from the GGUF file."""
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            real_gguf.parent, gguf_file=real_gguf.name, dtype=torch.float32, local_files_only=True
        )


@pytest.fixture(scope="module")
def tokenizer(real_gguf) -> Any:
    with quiet():
        return AutoTokenizer.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name, local_files_only=True)


def test_greedy_answers_are_those_of_transformers_token_for_token(real_core, native, tokenizer):
    core = ssdcli.load(real_core.name, placement=EXACT)
    requests = [Request(prompt) for prompt in PROMPTS]
    written = core.generate_batch(requests, Options(temperature=0, max_tokens=NEW, plain=False))
    for prompt, result in zip(PROMPTS, written, strict=True):
        turn = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=False)
        continued = native.generate(ids, do_sample=False, max_new_tokens=NEW, pad_token_id=0)[0, ids.shape[1] :]
        expected = [token for token in continued.tolist() if token != tokenizer.eos_token_id]
        assert (result.text, result.tokens) == (tokenizer.decode(expected, skip_special_tokens=True), len(expected))
