"""A tiny Nemotron-Labs-Diffusion in its published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models.families.checkpoints import WORDS, Draw, llama_tensors, write_json, write_tokenizer, write_weights
from tests.models.families.dream import TEMPLATE

SPECIALS = ("<unk>", "<s>", "</s>", "<SPECIAL_100>")
BEGIN, END, MASK = WORDS + 1, WORDS + 2, WORDS + 3
ROWS, BLOCK = 312, 8

CONFIG: dict[str, Any] = {
    "ar_loss_weight": 1.0,
    "architectures": ["NemotronLabsDiffusionModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "sdpa",
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "block_size": BLOCK,
    "bos_token_id": BEGIN,
    "dlm_loss_weight": None,
    "dlm_paradigm": "bidirectional",
    "dp_varying_mask_ratio": False,
    "eos_token_id": END,
    "head_dim": 12,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "nemotron_labs_diffusion",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 0.25,
        "llama_4_scaling_beta": 0.1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 1024,
        "rope_theta": 300.0,
        "rope_type": "yarn",
    },
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "vocab_size": ROWS,
}


def write_nemotron_labs(folder: Path, seed: int = 0) -> Path:
    write_json(folder / "config.json", CONFIG)
    tensors = {
        "diffusion_head.weight" if name == "lm_head.weight" else name.replace("model.", "encoder.", 1): tensor
        for name, tensor in llama_tensors(Draw(seed), CONFIG).items()
    }
    write_weights(folder, tensors)
    settings = {
        "bos_token": "<s>",
        "chat_template": TEMPLATE,
        "eos_token": "</s>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder
