"""A tiny causal Llama that was adapted: it reads a prefix token by token and sees a canvas whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssdcli.models.core_spec import KEY, CoreSpec
from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights

SPECIALS = ("<|endoftext|>", "<|mask|>")
END, MASK = WORDS, WORDS + 1
ROWS = 304
SPEC = CoreSpec(
    process="masked",
    constants={"mask_id": MASK},
    attention="causal",
    block_size=8,
    context=256,
    shift=True,
    ends=(END,),
    suppressed=(MASK, 302, 303),
)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0},
    "tie_word_embeddings": False,
    "vocab_size": ROWS,
    KEY: SPEC.to_json(),
}


def write_described(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, llama_tensors(Draw(seed), CONFIG))
    write_tokenizer(folder, SPECIALS, {"eos_token": "<|endoftext|>", "mask_token": "<|mask|>"})
    return folder
