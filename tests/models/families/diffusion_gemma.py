"""A tiny DiffusionGemma in its published format: shared weights under the decoder's names alone, experts stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion

from tests.models.families.checkpoints import Draw, write_json, write_weights

WIDTH, MLP, EXPERT_MLP, EXPERTS, BLOCK, WINDOW = 32, 24, 16, 4, 8, 6
HEADS, KEYS, GLOBAL_KEYS, HEAD, GLOBAL_HEAD = 4, 2, 1, 8, 16
KINDS = ("sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention")
VISION, VISION_MLP, VISION_HEAD, PATCH = 16, 24, 8, 4

# Small enough that a token of the canvas is mostly predicted where it stands, so that canvases come to rest.
GAINS = {"input": 1.0, "post_attention": 0.4, "pre_feedforward": 1.0, "post_feedforward": 0.4}

FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
TOOLS = ("<|tool_response>", "<tool_response|>", "<|channel>", "<channel|>", "<|turn>", "<turn|>")
MEDIA = ("<|image>", "<|audio>", "<|image|>", "<|audio|>", "<image|>", "<audio|>", "<|video|>")
PIECES = ("▁", *"abcdefghijklmnopqrstuvwxyzDI.,", "th", "he", "▁th", "▁the")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
TOKENS = (*FIRST, *TOOLS, *BYTES, *PIECES, *MEDIA)
PAD, END, BEGIN = 0, 1, 2
RESPONSE, TURN = TOKENS.index("<|tool_response>"), TOKENS.index("<turn|>")
NEVER = tuple(TOKENS.index(media) for media in MEDIA)
ROWS = len(TOKENS)

CONFIG: dict[str, Any] = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"],
    "boi_token_id": TOKENS.index("<|image>"),
    "canvas_length": BLOCK,
    "dtype": "float32",
    "eoi_token_id": TOKENS.index("<image|>"),
    "eos_token_id": [END, TURN],
    "image_token_id": TOKENS.index("<|image|>"),
    "initializer_range": 0.02,
    "model_type": "diffusion_gemma",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BEGIN,
        "dtype": "float32",
        "eos_token_id": END,
        "final_logit_softcapping": 11.0,
        "global_head_dim": GLOBAL_HEAD,
        "head_dim": HEAD,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": MLP,
        "layer_types": list(KINDS),
        "max_position_embeddings": 128,
        "model_type": "diffusion_gemma_text",
        "moe_intermediate_size": EXPERT_MLP,
        "num_attention_heads": HEADS,
        "num_experts": EXPERTS,
        "num_global_key_value_heads": GLOBAL_KEYS,
        "num_hidden_layers": len(KINDS),
        "num_key_value_heads": KEYS,
        "pad_token_id": PAD,
        "rms_norm_eps": 1e-4,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 5000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 300.0, "rope_type": "default"},
        },
        "sliding_window": WINDOW,
        "tie_word_embeddings": True,
        "top_k_experts": 2,
        "use_bidirectional_attention": "vision",
        "vocab_size": ROWS,
    },
    "tie_word_embeddings": True,
    "transformers_version": "5.8.0.dev0",
    "vision_config": {
        "head_dim": VISION_HEAD,
        "hidden_size": VISION,
        "intermediate_size": VISION_MLP,
        "model_type": "gemma4_vision",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "patch_size": PATCH,
        "position_embedding_size": 10,
        "standardize": True,
    },
}
GENERATION: dict[str, Any] = {
    "confidence_threshold": 0.5,
    "eos_token_id": [END, TURN, RESPONSE],
    "max_denoising_steps": 14,
    "max_new_tokens": 256,
    "pad_token_id": PAD,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 4.0},
    "stability_threshold": 1,
    "t_max": 0.1,
    "t_min": 0.05,
    "transformers_version": "5.8.0.dev0",
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn>' + message['role'] + '\n' + message['content'] | trim }}"
    "{{ '<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


def write_diffusion_gemma(folder: Path, seed: int = 0) -> Path:
    """In two shards."""
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION)
    write_weights(folder, tensors(Draw(seed)), shards=2)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    _tokenizer().save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    write_json(folder / "tokenizer_config.json", names | {"eot_token": "<turn|>", "tokenizer_class": "GemmaTokenizer"})
    return folder


def open_native(folder: Path) -> Any:
    """The native class on published files, in float64."""
    eager = {"dtype": torch.float64, "experts_implementation": "eager"}
    return DiffusionGemmaForBlockDiffusion.from_pretrained(folder, **eager).eval().requires_grad_(False)


def _tokenizer() -> Tokenizer:
    """Byte-fallback BPE, whose special tokens are in the midst of the others."""
    merges = [("t", "h"), ("h", "e"), ("▁", "th"), ("▁th", "e")]
    vocabulary = {token: id for id, token in enumerate(TOKENS)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (*FIRST, *TOOLS, *MEDIA)])
    return made


def tensors(draw: Draw) -> dict[str, Tensor]:
    made = {"model.decoder.embed_tokens.weight": draw.table(ROWS, WIDTH) * 0.2}
    for n, kind in enumerate(KINDS):
        made |= _layer(draw, f"model.decoder.layers.{n}.", kind)
        made[f"model.encoder.language_model.layers.{n}.layer_scalar"] = torch.tensor([0.9 + 0.05 * n])
    made |= {
        "model.decoder.norm.weight": draw.norm(WIDTH),
        "model.decoder.self_conditioning.pre_norm.weight": draw.norm(WIDTH),
        "model.decoder.self_conditioning.gate_proj.weight": draw.linear(MLP, WIDTH),
        "model.decoder.self_conditioning.up_proj.weight": draw.linear(MLP, WIDTH),
        "model.decoder.self_conditioning.down_proj.weight": draw.linear(WIDTH, MLP) * 0.3,
        "model.encoder.embed_vision.embedding_projection.weight": draw.linear(WIDTH, VISION),
    }
    return made | _vision(draw, "model.encoder.vision_tower.")


def _layer(draw: Draw, layer: str, kind: str) -> dict[str, Tensor]:
    sliding = kind == "sliding_attention"
    head, keys = (HEAD, KEYS) if sliding else (GLOBAL_HEAD, GLOBAL_KEYS)
    values = {f"{layer}self_attn.v_proj.weight": draw.linear(keys * head, WIDTH)} if sliding else {}
    return {
        **{f"{layer}{name}_layernorm.weight": draw.norm(WIDTH) * GAINS[name] for name in GAINS},
        f"{layer}post_feedforward_layernorm_1.weight": draw.norm(WIDTH),
        f"{layer}post_feedforward_layernorm_2.weight": draw.norm(WIDTH),
        f"{layer}pre_feedforward_layernorm_2.weight": draw.norm(WIDTH),
        f"{layer}self_attn.q_proj.weight": draw.linear(HEADS * head, WIDTH),
        f"{layer}self_attn.k_proj.weight": draw.linear(keys * head, WIDTH),
        **values,
        f"{layer}self_attn.o_proj.weight": draw.linear(WIDTH, HEADS * head),
        f"{layer}self_attn.q_norm.weight": draw.norm(head) * head**-0.5,
        f"{layer}self_attn.k_norm.weight": draw.norm(head),
        f"{layer}mlp.gate_proj.weight": draw.linear(MLP, WIDTH),
        f"{layer}mlp.up_proj.weight": draw.linear(MLP, WIDTH),
        f"{layer}mlp.down_proj.weight": draw.linear(WIDTH, MLP),
        f"{layer}router.proj.weight": draw.linear(EXPERTS, WIDTH),
        f"{layer}router.scale": draw.norm(WIDTH) * WIDTH**0.5,
        f"{layer}router.per_expert_scale": draw.norm(EXPERTS),
        f"{layer}experts.gate_up_proj": torch.stack([draw.linear(2 * EXPERT_MLP, WIDTH) for _ in range(EXPERTS)]),
        f"{layer}experts.down_proj": torch.stack([draw.linear(WIDTH, EXPERT_MLP) for _ in range(EXPERTS)]),
        f"{layer}layer_scalar": torch.tensor([0.8]),
    }


def _vision(draw: Draw, tower: str) -> dict[str, Tensor]:
    layer = f"{tower}encoder.layers.0."
    shapes = {
        "mlp.gate_proj": (VISION_MLP, VISION),
        "mlp.up_proj": (VISION_MLP, VISION),
        "mlp.down_proj": (VISION, VISION_MLP),
    }
    shapes |= {f"self_attn.{name}_proj": (VISION, VISION) for name in "qkvo"}
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    return {
        f"{tower}patch_embedder.input_proj.weight": draw.linear(VISION, 3 * PATCH**2),
        f"{tower}patch_embedder.position_embedding_table": torch.stack([draw.table(10, VISION) for _ in range(2)]),
        f"{tower}std_bias": draw.bias(VISION),
        f"{tower}std_scale": draw.norm(VISION),
        **{f"{layer}{name}.linear.weight": draw.linear(*shape) for name, shape in shapes.items()},
        **{f"{layer}{name}_layernorm.weight": draw.norm(VISION) for name in norms},
        **{f"{layer}self_attn.{name}_norm.weight": draw.norm(VISION_HEAD) for name in "qk"},
    }
