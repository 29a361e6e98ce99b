"""Fast-dLLM v2 (Wu et al., 2025): a Qwen2 that sees the blocks before a block and all of the block.

Position i is predicted at i - 1, and the first of a block at the last token of the prefix. As in SDAR, the grid of
blocks ends at the canvas, so that a prompt's short block is its first instead of its last.
"""

from __future__ import annotations

from dataclasses import replace

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, masked_spec, native
from ssdcli.models.families.family import Config, Family, Vocabulary


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "|<MASK>|")
    common = masked_spec(config, vocabulary, hidden, "block-causal", count(config, "bd_size"))
    return replace(common, shift=True, ends=ends(config, vocabulary, "<|im_end|>", "<|endoftext|>"))


FAST_DLLM = Family(
    name="fast-dllm",
    title="Fast-dLLM v2",
    recognises=lambda config, _: is_a(config, "Fast_dLLM_QwenForCausalLM"),
    native=lambda config: native(config, "qwen2", "Qwen2ForCausalLM"),
    spec=_spec,
)
