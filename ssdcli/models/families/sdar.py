"""SDAR (Cheng et al., 2025): a Qwen3 that sees the blocks before a block and all of the block.

Its published grid of blocks starts at the beginning of the text. Here the grid ends at the canvas: a prompt of whole
blocks is read as published; any other has its short block first, not last together with the answer's first tokens.
"""

from __future__ import annotations

from dataclasses import replace

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, masked_spec, native
from ssdcli.models.families.family import Config, Family, Vocabulary


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "<|MASK|>")
    block = count(config, "block_size")  # from 4 to 64; only config.json says which
    common = masked_spec(config, vocabulary, hidden, "block-causal", block)
    return replace(common, ends=ends(config, vocabulary, "<|im_end|>", "<|endoftext|>"))


SDAR = Family(
    name="sdar",
    title="SDAR",
    recognises=lambda config, _: is_a(config, "SDARForCausalLM"),
    native=lambda config: native(config, "qwen3", "Qwen3ForCausalLM"),
    spec=_spec,
)
