"""A tiny LLaDA in its published format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from tests.models.families.checkpoints import WORDS, Draw, write_json, write_tokenizer, write_weights

WIDTH, LAYERS, HEADS, KEYS, MLP, ROWS = 32, 2, 4, 2, 48, 312
SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "[CLS]",
    "[gMASK]",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
BEGIN, END, MASK, TURN = WORDS, WORDS + 1, WORDS + 4, WORDS + 7

CONFIG: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": WIDTH,
    "embedding_dropout": 0.0,
    "embedding_size": ROWS,
    "eos_token_id": END,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 256,
    "mlp_hidden_size": MLP,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": KEYS,
    "n_layers": LAYERS,
    "pad_token_id": END,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-3,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 300.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": ROWS,
    "weight_tying": False,
}
TEMPLATE = (
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


def write_llada(folder: Path, seed: int = 0) -> Path:
    """In three shards."""
    write_json(folder / "config.json", CONFIG)
    write_weights(folder, _tensors(Draw(seed)), shards=3)
    settings = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<|startoftext|>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "eos_token": "<|endoftext|>",
        "fast_tokenizer": True,
        "gmask_token": "[gMASK]",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_tokenizer(folder, SPECIALS, settings)
    return folder


def _tensors(draw: Draw) -> dict[str, Tensor]:
    keys = WIDTH // HEADS * KEYS
    tensors = {"model.transformer.wte.weight": draw.table(ROWS, WIDTH)}
    for n in range(LAYERS):
        layer = f"model.transformer.blocks.{n}"
        tensors |= {
            f"{layer}.attn_norm.weight": draw.norm(WIDTH),
            f"{layer}.q_proj.weight": draw.linear(WIDTH, WIDTH),
            f"{layer}.k_proj.weight": draw.linear(keys, WIDTH),
            f"{layer}.v_proj.weight": draw.linear(keys, WIDTH),
            f"{layer}.attn_out.weight": draw.linear(WIDTH, WIDTH),
            f"{layer}.ff_norm.weight": draw.norm(WIDTH),
            f"{layer}.ff_proj.weight": draw.linear(MLP, WIDTH),
            f"{layer}.up_proj.weight": draw.linear(MLP, WIDTH),
            f"{layer}.ff_out.weight": draw.linear(WIDTH, MLP),
        }
    return tensors | {
        "model.transformer.ln_f.weight": draw.norm(WIDTH),
        "model.transformer.ff_out.weight": draw.linear(ROWS, WIDTH),
    }
