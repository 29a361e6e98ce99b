"""A tiny ModernBERT in its published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, write_json, write_tokenizer, write_weights

SPECIALS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
BEGIN, END, MASK = WORDS + 1, WORDS + 2, WORDS + 4
ROWS, WIDTH, WIDE, LAYERS, WINDOW = 312, 32, 48, 4, 16

CONFIG: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BEGIN,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "cls_token_id": BEGIN,
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "eos_token_id": END,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 1600.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "hidden_size": WIDTH,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-3,
    "local_attention": WINDOW,
    "local_rope_theta": 100.0,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-3,
    "num_attention_heads": 4,
    "num_hidden_layers": LAYERS,
    "pad_token_id": WORDS + 3,
    "position_embedding_type": "absolute",
    "sep_token_id": END,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
    "vocab_size": ROWS,
}


def write_modernbert(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, _tensors(Draw(seed)))
    settings = {"cls_token": "[CLS]", "mask_token": "[MASK]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    write_tokenizer(folder, SPECIALS, settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def _tensors(draw: Draw) -> dict[str, Tensor]:
    table = draw.table(ROWS, WIDTH)
    tensors = {"model.embeddings.tok_embeddings.weight": table, "model.embeddings.norm.weight": draw.norm(WIDTH)}
    for n in range(LAYERS):
        layer = f"model.layers.{n}."
        tensors |= {f"{layer}attn_norm.weight": draw.norm(WIDTH)} if n else {}  # the embeddings are normed already
        tensors |= {
            f"{layer}attn.Wqkv.weight": draw.linear(3 * WIDTH, WIDTH),
            f"{layer}attn.Wo.weight": draw.linear(WIDTH, WIDTH),
            f"{layer}mlp_norm.weight": draw.norm(WIDTH),
            f"{layer}mlp.Wi.weight": draw.linear(2 * WIDE, WIDTH),
            f"{layer}mlp.Wo.weight": draw.linear(WIDTH, WIDE),
        }
    return tensors | {
        "model.final_norm.weight": draw.norm(WIDTH),
        "head.dense.weight": draw.linear(WIDTH, WIDTH),
        "head.norm.weight": draw.norm(WIDTH),
        "decoder.bias": draw.bias(ROWS),
        "decoder.weight": table.clone(),
    }
