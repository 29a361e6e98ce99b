"""SmolLM2 out of its GGUF file, in 4 bits: the numbers that gguf and transformers read, and the text that they make."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import gguf
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from ssdcli.cli import app
from ssdcli.models.auto_model import quiet
from ssdcli.models.core_config import read_config

TOKENS = 18  # more than a block
PROMPTS = (
    "What is the capital of France?",  # whose answer ends before it is cut off
    "Tell me a joke about a cat & a dog <|im_end|>",
    "1, 2, 3, 4, 5,",
)
LAST = "model.layers.29"
SAMPLED = {  # one tensor of each type and of each way in which a tensor is changed
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.29.attn_k.weight": f"{LAST}.self_attn.k_proj.weight",
    "blk.29.attn_v.weight": f"{LAST}.self_attn.v_proj.weight",
    "blk.29.ffn_down.weight": f"{LAST}.mlp.down_proj.weight",
    "output_norm.weight": "model.norm.weight",
}


def test_its_weights_are_the_dequantised_numbers_in_float32(real_gguf, real_core):
    config = read_config(real_core.folder)
    processor = LlamaTensorProcessor(config)
    with safe_open(real_core.folder / "model.safetensors", "pt") as file:
        for tensor in gguf.GGUFReader(real_gguf).tensors:
            if tensor.name in SAMPLED:
                numbers = processor.process(gguf.dequantize(tensor.data, tensor.tensor_type), tensor.name).weights
                assert torch.equal(file.get_tensor(SAMPLED[tensor.name]), torch.from_numpy(numbers.copy()))
    assert config["max_position_embeddings"] == real_core.manifest.context == 8192
    assert config["rope_parameters"]["rope_theta"] == 100_000
    assert real_core.manifest.ends[0] == 2


@pytest.fixture
def ours(real_core, tmp_path, capsys) -> Callable[[], list[dict[str, Any]]]:
    """Runs `ssd generate` greedily over the prompts, and returns a result for each."""

    def generate() -> list[dict[str, Any]]:
        file = tmp_path / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
        options = ["--temperature", "0", "--max-tokens", str(TOKENS), "--dtype", "float32", "--json"]
        assert app.main(["generate", "--core", real_core.name, "--batch", str(file), *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return generate


def test_its_greedy_text_is_that_of_transformers_token_for_token(real_gguf, real_core, ours):
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(real_core.folder, dtype=torch.float32, local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(real_gguf.parent, gguf_file=real_gguf.name)
        answers = [greedy(model, chat(tokenizer, prompt), real_core.manifest.ends) for prompt in PROMPTS]
    expected = [(tokenizer.decode(answer, skip_special_tokens=True), len(answer)) for answer in answers]
    assert [(result["text"], result["tokens"]) for result in ours()] == expected
    assert len(set(expected)) == len(PROMPTS)


def greedy(model: Any, ids: list[int], ends: tuple[int, ...]) -> list[int]:
    """What transformers' own greedy search adds, up to the end."""
    found = model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :].tolist()
    return list(takewhile(lambda id: id not in ends, found))


def chat(tokenizer: Any, prompt: str) -> list[int]:
    """The ids of a conversation, in which a prompt that spells a special token remains text."""
    turns = [{"role": "user", "content": "\0"}]
    before, after = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False).split("\0")
    said = tokenizer(prompt, split_special_tokens=True).input_ids
    return [*tokenizer(before).input_ids, *said, *tokenizer(after).input_ids]
