"""A tiny SSD-LM in its published format: RoBERTa's files, all weights in pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, tokenizer, write_json

WIDTH, LAYERS, HEADS, MLP, POSITIONS = 32, 2, 4, 48, 130
FIRST = ("<s>", "<pad>", "</s>", "<unk>")  # of the vocabulary; the mask is its last
ROWS = len(FIRST) + WORDS + 1
BEGIN, PAD, END, MASK = 0, 1, 2, ROWS - 1

CONFIG: dict[str, Any] = {
    "_name_or_path": "roberta-large",
    "architectures": ["RobertaForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "bos_token_id": BEGIN,
    "classifier_dropout": None,
    "eos_token_id": END,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": MLP,
    "layer_norm_eps": 1e-2,
    "max_position_embeddings": POSITIONS,
    "model_type": "roberta",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "pad_token_id": PAD,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.17.0",
    "type_vocab_size": 1,
    "use_cache": True,
    "vocab_size": ROWS,
}

_NAMED = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
_MASK = {"content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}


def write_ssdlm(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint; two of its pickles carry the names of data-parallel training."""
    draw = Draw(seed)
    write_json(folder / "config.json", CONFIG)
    torch.save(_roberta(draw), folder / "pytorch_model.bin")
    torch.save({"module.weight": draw.table(WIDTH, ROWS)}, folder / "embed_sum_layer.pt")
    time = {"module.weight": draw.table(WIDTH, 1), "module.bias": draw.bias(WIDTH)}
    torch.save(time, folder / "timestep_layer.pt")
    _write_tokenizer(folder)
    return folder


def _roberta(draw: Draw) -> dict[str, Tensor]:
    """What transformers saved at the time: what is tied twice, and positions that are no weights."""
    table, bias = 0.4 * draw.table(ROWS, WIDTH), draw.bias(ROWS)  # it is the head too
    tensors = {
        "roberta.embeddings.position_ids": torch.arange(POSITIONS)[None],
        "roberta.embeddings.word_embeddings.weight": table,
        "roberta.embeddings.position_embeddings.weight": draw.table(POSITIONS, WIDTH),
        "roberta.embeddings.token_type_embeddings.weight": draw.table(1, WIDTH),
        "lm_head.bias": bias,
        "lm_head.decoder.weight": table,
        "lm_head.decoder.bias": bias,
    }
    linears, norms = {"lm_head.dense": (WIDTH, WIDTH)}, ["roberta.embeddings.LayerNorm", "lm_head.layer_norm"]
    for layer in (f"roberta.encoder.layer.{i}" for i in range(LAYERS)):
        squares = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        linears |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in squares}
        linears |= {f"{layer}.intermediate.dense": (MLP, WIDTH), f"{layer}.output.dense": (WIDTH, MLP)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in linears.items():
        tensors |= {f"{name}.weight": draw.linear(*shape), f"{name}.bias": draw.bias(shape[0])}
    for name in norms:
        tensors |= {f"{name}.weight": draw.norm(WIDTH), f"{name}.bias": draw.bias(WIDTH)}
    return tensors


def _write_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, as the slow tokenizer was saved, with the special tokens among the others."""
    words: Tokenizer = tokenizer(())
    words.model.save(str(folder))
    ordinary = {text: id + len(FIRST) for text, id in words.get_vocab().items()}
    ids = {text: id for id, text in enumerate(FIRST)} | ordinary | {"<mask>": MASK}
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    names: dict[str, Any] = {f"{role}_token": text for role, text in _NAMED.items()}
    write_json(folder / "special_tokens_map.json", names | {"mask_token": _MASK})
    more = {"errors": "replace", "add_prefix_space": False, "tokenizer_class": "RobertaTokenizer"}
    write_json(folder / "tokenizer_config.json", names | {"mask_token": {**_MASK, "__type": "AddedToken"}} | more)
