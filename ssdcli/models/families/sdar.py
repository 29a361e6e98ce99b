"""SDAR (Cheng et al., 2025): a Qwen3 that sees the blocks before a block and all of the block.

Its published grid of blocks starts at the beginning of the text. Here the grid ends at the canvas: a prompt of whole
blocks is read as published; any other has its short block first, not last together with the answer's first tokens.
"""

from __future__ import annotations

from ssdcli.models.families.config import MaskedSpec, is_a, native
from ssdcli.models.families.family import Family

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
