"""Families of masked diffusion models whose tensors have the names of a causal class: a table each."""

from __future__ import annotations

from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import MaskedSpec, is_a, masks_with_a_word, native, off
from ssdcli.models.families.family import SOURCE, Config, Family, Rename, Vocabulary

# SDAR (Cheng et al., 2025): a Qwen3 that sees the blocks before a block and all of the block.
#
# Its published grid of blocks starts at the beginning of the text. Here the grid ends at the canvas: a prompt of whole
# blocks is read as published; any other has its short block first, not last together with the answer's first tokens.

SDAR = Family(
    name="sdar",
    title="SDAR",
    recognises=lambda config, _: is_a(config, "SDARForCausalLM"),
    native=lambda config: native(config, "qwen3", "Qwen3ForCausalLM"),
    spec=MaskedSpec(
        masks=("<|MASK|>",),
        attention="block-causal",
        block="block_size",  # from 4 to 64; only config.json says which
        ends=("<|im_end|>", "<|endoftext|>"),
    ),
)


# DiffuLLaMA (Gong et al., 2024): a Llama with full attention, whose position i is predicted at i - 1.
#
# Its config.json is a causal Llama's. The tokenizer tells them apart: DiffuLLaMA's names as its mask one of Llama's own
# tokens, a word. A causal Llama may have a mask too, but then a special token that was added for it.

_TRAINED = 2048  # that of DiffuLLaMA and Dream; config.json repeats that of the model that each was made from


DIFFULLAMA = Family(
    name="diffullama",
    title="DiffuLLaMA",
    recognises=lambda config, vocabulary: is_a(config, "LlamaForCausalLM") and masks_with_a_word(vocabulary),
    native=lambda config: native(config, "llama", "LlamaForCausalLM"),
    spec=MaskedSpec(trained=_TRAINED, shift=True),
)


# Dream (Ye et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.
#
# Dream-Coder and DiffuCoder (Gong et al., 2025) are checkpoints of the same class.


def _dream(config: Config) -> dict[str, Any]:
    off(config, "use_mrope")
    return native(config, "qwen2", "Qwen2ForCausalLM")


DREAM = Family(
    name="dream",
    title="Dream",
    recognises=lambda config, _: is_a(config, "DreamModel"),
    native=_dream,
    spec=MaskedSpec(masks=("<|mask|>",), trained=_TRAINED, shift=True, ends=("<|im_end|>",), padded=True),
)


# Fast-dLLM v2 (Wu et al., 2025): a Qwen2 that sees the blocks before a block and all of the block.
#
# Position i is predicted at i - 1, and the first of a block at the last token of the prefix. As in SDAR, the grid of
# blocks ends at the canvas, so that a prompt's short block is its first instead of its last.

FAST_DLLM = Family(
    name="fast-dllm",
    title="Fast-dLLM v2",
    recognises=lambda config, _: is_a(config, "Fast_dLLM_QwenForCausalLM"),
    native=lambda config: native(config, "qwen2", "Qwen2ForCausalLM"),
    spec=MaskedSpec(
        masks=("|<MASK>|",),
        attention="block-causal",
        block="bd_size",
        shift=True,
        ends=("<|im_end|>", "<|endoftext|>"),
    ),
)


# Open-dCoder (Peng et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.
#
# Its config.json is a causal Qwen2's; the mask that was added to its tokenizer tells them apart.

_MASK = "<M>"


def _is_open_dcoder(config: Config, vocabulary: Vocabulary) -> bool:
    added = vocabulary.ids.get(_MASK)
    return is_a(config, "Qwen2ForCausalLM") and added is not None and added == vocabulary.mask


OPEN_DCODER = Family(
    name="open-dcoder",
    title="Open-dCoder",
    recognises=_is_open_dcoder,
    native=lambda config: native(config, "qwen2", "Qwen2ForCausalLM"),
    spec=MaskedSpec(masks=(_MASK,), shift=True, ends=("<|endoftext|>",)),
)


# Nemotron-Labs-Diffusion (NVIDIA, 2026): a Ministral 3 that reads a prefix token by token and a canvas whole.
#
# The same weights predict the next token as well, and the published decoding takes the first token of each block from
# that prediction; here a canvas is denoised whole.

_PARADIGMS = ("bidirectional", "block_diff")


def _ministral(config: Config) -> dict[str, Any]:
    off(config, "sliding_window", "attention_bias", "mlp_bias")
    paradigm = config.get("dlm_paradigm")
    if paradigm not in _PARADIGMS:
        problem = f"the checkpoint's config.json has 'dlm_paradigm' as {paradigm!r}"
        raise SsdError(f"{problem}, which no diffusion model of this family has.", "Name another repository.")
    return native(config, "ministral3", "Ministral3ForCausalLM")


NEMOTRON_LABS = Family(
    name="nemotron-labs",
    title="Nemotron-Labs-Diffusion",
    recognises=lambda config, _: is_a(config, "NemotronLabsDiffusionModel"),
    native=_ministral,
    spec=MaskedSpec(attention="causal", block="block_size"),
    keys=(
        Rename(r"encoder\.(.*)", r"model.\1"),
        Rename(r"diffusion_head\.weight", "lm_head.weight"),
    ),
)


# A2D models of dLLM (Zhou et al., 2026): a Qwen2, a Qwen3 or a Llama that became a masked diffusion model.
#
# Most see all of a text (MDLM); others see the blocks before a block and all of the block (BD3-LM). Class, tensors and
# config.json are the same for both: the name of the checkpoint tells them apart. As in SDAR, the grid of blocks ends at
# the canvas.

_CLASSES = {
    "A2DQwen2LMHeadModel": ("qwen2", "Qwen2ForCausalLM"),
    "A2DQwen3LMHeadModel": ("qwen3", "Qwen3ForCausalLM"),
    "A2DLlamaLMHeadModel": ("llama", "LlamaForCausalLM"),
}


def _a2d(config: Config) -> dict[str, Any]:
    return native(config, *next(found for name, found in _CLASSES.items() if is_a(config, name)))


def _a2d_spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    in_blocks = "bd3lm" in str(config.get(SOURCE)).lower()
    how = MaskedSpec(
        masks=("<|mask|>", "<|MASK|>"),
        attention="block-causal" if in_blocks else "full",
        ends=("<|im_end|>", "<|eot_id|>", "<|endoftext|>"),
        padded=not in_blocks,
    )
    return how(config, vocabulary)


A2D = Family(
    name="a2d",
    title="dLLM's A2D",
    recognises=lambda config, _: is_a(config, *_CLASSES),
    native=_a2d,
    spec=_a2d_spec,
)
