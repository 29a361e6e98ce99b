"""Fast-dLLM v2 (Wu et al., 2025): a Qwen2 that sees the blocks before a block and all of the block.

Position i is predicted at i - 1, and the first of a block at the last token of the prefix. As in SDAR, the grid of
blocks ends at the canvas, so that a prompt's short block is its first instead of its last.
"""

from __future__ import annotations

from ssdcli.models.families.config import MaskedSpec, is_a, native
from ssdcli.models.families.family import Family

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
