"""A tiny RoBERTa that was adapted, as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from ssdcli.models.core_spec import KEY, CoreSpec
from tests.models.families.checkpoints import WORDS, write_json, write_tokenizer

SPECIALS = ("<s>", "<pad>", "</s>", "<mask>")
BEGIN, END, MASK = WORDS, WORDS + 2, WORDS + 3
ROWS = MASK + 1
SPEC = CoreSpec(
    process="masked",
    constants={"mask_id": MASK},
    attention="full",
    block_size=8,
    context=128,
    begin=BEGIN,
    ends=(END,),
    suppressed=(MASK,),
)


def write_described_roberta(folder: Path, seed: int = 0) -> Path:
    config = RobertaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=132,
        type_vocab_size=1,
        initializer_range=0.3,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        RobertaForMaskedLM(config).save_pretrained(folder)
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", table | {KEY: SPEC.to_json()})
    write_tokenizer(folder, SPECIALS, {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"})
    return folder
