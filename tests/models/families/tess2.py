"""A tiny TESS-2 in its published format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from torch import Tensor

from tests.models.families.checkpoints import Draw, write_json, write_weights

WIDTH, LAYERS, HEADS, KEYS, MLP = 32, 2, 4, 2, 48
PIECES = 60  # learned ones, after the special tokens and the 256 bytes
SPECIALS = ("<unk>", "<s>", "</s>")
BEGIN, END = 1, 2
PAD = len(SPECIALS) + 256 + PIECES  # added last
ROWS = PAD + 1

CONFIG: dict[str, Any] = {
    "_name_or_path": "/model",
    "architectures": ["MistralForDiffusionLM"],
    "attention_dropout": 0.0,
    "bos_token_id": BEGIN,
    "classifier_free_simplex_inputs": False,
    "classifier_free_uncond_input": "empty_token",
    "deepmind_conditional": False,
    "disable_timestep_embed": False,
    "empty_token_be_mask": False,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": MLP,
    "is_causal": False,
    "mask_padding_in_loss": False,
    "max_position_embeddings": 512,
    "model_type": "mistral",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEYS,
    "pad_token_id": PAD,
    "padding_side": "right",
    "rms_norm_eps": 1e-2,
    "rope_theta": 500.0,
    "self_condition": "logits_mean",
    "self_condition_mix_before_weights": True,
    "self_condition_mix_logits_before_weights": False,
    "self_condition_mlp_projection": False,
    "self_condition_zeros_after_softmax": False,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.38.2",
    "use_cache": True,
    "vocab_size": ROWS,
}

_TEXT = "Dear landlord, the boiler is cold again and the stairs are dark. "
_SPACE = "\u2581"
# The format of Tulu (Ivison et al., 2023).
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{{ (eos_token if message['role'] == 'assistant' else '') + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def write_tess2(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint, its weights in two shards."""
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD})
    write_weights(folder, _weights(Draw(seed)), shards=2)
    _tokenizer().save(str(folder / "tokenizer.json"))
    _write_settings(folder)
    return folder


def _weights(draw: Draw) -> dict[str, Tensor]:
    tensors = {
        "lm_head.weight": draw.linear(ROWS, WIDTH),
        "model.embed_tokens.weight": draw.table(ROWS, WIDTH),
        "model.norm.weight": draw.norm(WIDTH),
        "timestep_embed.weight": draw.table(WIDTH, 1),
    }
    narrow = WIDTH // HEADS * KEYS
    for layer in (f"model.layers.{i}" for i in range(LAYERS)):
        tensors |= {
            f"{layer}.input_layernorm.weight": draw.norm(WIDTH),
            f"{layer}.mlp.down_proj.weight": draw.linear(WIDTH, MLP),
            f"{layer}.mlp.gate_proj.weight": draw.linear(MLP, WIDTH),
            f"{layer}.mlp.up_proj.weight": draw.linear(MLP, WIDTH),
            f"{layer}.post_attention_layernorm.weight": draw.norm(WIDTH),
            f"{layer}.self_attn.k_proj.weight": draw.linear(narrow, WIDTH),
            f"{layer}.self_attn.o_proj.weight": draw.linear(WIDTH, WIDTH),
            f"{layer}.self_attn.q_proj.weight": draw.linear(WIDTH, WIDTH),
            f"{layer}.self_attn.v_proj.weight": draw.linear(narrow, WIDTH),
        }
    return tensors


def _tokenizer() -> Tokenizer:
    """What sentencepiece's become: a BPE over text with visible spaces, which falls back to bytes."""
    spaces = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    learner = Tokenizer(models.BPE())
    learner.normalizer = spaces
    learner.train_from_iterator([_TEXT], trainers.BpeTrainer(vocab_size=PIECES, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = sorted(learned["vocab"], key=learned["vocab"].get)
    texts = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    ids = {text: id for id, text in enumerate(texts)}
    merges = [(first, second) for first, second in learned["merges"]]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BEGIN)])
    made.add_special_tokens([AddedToken(text, normalized=False) for text in (*SPECIALS, "[PAD]")])
    assert made.get_vocab_size() == ROWS
    return made


def _write_settings(folder: Path) -> None:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = {**dict(enumerate(SPECIALS)), PAD: "[PAD]"}
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(id): {"content": text, **flags} for id, text in added.items()},
        "bos_token": "<s>",
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "pad_token": "[PAD]",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    write_json(folder / "tokenizer_config.json", settings)
