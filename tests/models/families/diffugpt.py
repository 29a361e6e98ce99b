"""A tiny DiffuGPT in its published format: a GPT-2 under names of its own, which masks with a word or a new token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, tokenizer, write_json, write_tokenizer, write_weights

ADDED = "[¨M¨]"
END = WORDS
WIDTH, LAYERS = 32, 2


def specials(kind: str) -> tuple[str, ...]:
    return ("<|endoftext|>",) if kind == "s" else ("<|endoftext|>", ADDED)


def mask_text(kind: str) -> str:
    return "Ġmask" if kind == "s" else ADDED


def mask_id(kind: str) -> int:
    return tokenizer(specials(kind)).token_to_id(mask_text(kind))


def config(kind: str) -> dict[str, Any]:
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": END,
        "eos_token_id": END,
        "layer_norm_epsilon": 1e-3,
        "model_type": "gpt2",
        "n_ctx": 256,
        "n_embd": WIDTH,
        "n_head": 4,
        "n_layer": LAYERS,
        "n_positions": 256,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 64}},
        "vocab_size": WORDS + len(specials(kind)),
    }


def write_diffugpt(folder: Path, kind: str, seed: int = 0) -> Path:
    write_json(folder / "config.json", config(kind))
    write_weights(folder, _tensors(Draw(seed), WORDS + len(specials(kind))))
    settings = {"eos_token": "<|endoftext|>", "mask_token": mask_text(kind), "tokenizer_class": "GPT2Tokenizer"}
    write_tokenizer(folder, specials(kind), settings | {"bos_token": "<|endoftext|>"})
    return folder


def _tensors(draw: Draw, rows: int) -> dict[str, Tensor]:
    tensors = {"embed_tokens.weight": draw.table(rows, WIDTH), "denoise_model.wpe.weight": draw.table(256, WIDTH)}
    for n in range(LAYERS):
        sizes = {"attn.c_attn": 3 * WIDTH, "attn.c_proj": WIDTH, "mlp.c_fc": 4 * WIDTH, "mlp.c_proj": WIDTH}
        for name, outputs in sizes.items():
            inputs = 4 * WIDTH if name == "mlp.c_proj" else WIDTH
            tensors[f"denoise_model.h.{n}.{name}.weight"] = draw.linear(outputs, inputs).T.contiguous()
            tensors[f"denoise_model.h.{n}.{name}.bias"] = draw.bias(outputs)
        for name in ("ln_1", "ln_2"):
            tensors[f"denoise_model.h.{n}.{name}.weight"] = draw.norm(WIDTH)
            tensors[f"denoise_model.h.{n}.{name}.bias"] = draw.bias(WIDTH)
    return tensors | {"denoise_model.ln_f.weight": draw.norm(WIDTH), "denoise_model.ln_f.bias": draw.bias(WIDTH)}
