"""A2D models of dLLM (Zhou et al., 2026): a Qwen2, a Qwen3 or a Llama that became a masked diffusion model.

Most see all of a text (MDLM); others see the blocks before a block and all of the block (BD3-LM). Class, tensors and
config.json are the same for both: the name of the checkpoint tells them apart. As in SDAR, the grid of blocks ends at
the canvas.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import MaskedSpec, is_a, native
from ssdcli.models.families.family import SOURCE, Config, Family, Vocabulary

_CLASSES = {
    "A2DQwen2LMHeadModel": ("qwen2", "Qwen2ForCausalLM"),
    "A2DQwen3LMHeadModel": ("qwen3", "Qwen3ForCausalLM"),
    "A2DLlamaLMHeadModel": ("llama", "LlamaForCausalLM"),
}


def _native(config: Config) -> dict[str, Any]:
    return native(config, *next(found for name, found in _CLASSES.items() if is_a(config, name)))


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
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
    native=_native,
    spec=_spec,
)
