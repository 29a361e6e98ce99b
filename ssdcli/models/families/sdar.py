"""SDAR (Cheng et al., 2025): a Qwen3 that sees the blocks before a block and all of the block.

Its published grid of blocks starts at the beginning of the text. Here the grid ends at the canvas: a prompt of whole
blocks is read as published; any other has its short block first, not last together with the answer's first tokens.
"""

from __future__ import annotations

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, native, never_text, prompt_format
from ssdcli.models.families.family import Config, Family, Vocabulary


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "<|MASK|>")
    return CoreSpec(
        process="masked",
        constants={"mask_id": hidden},
        attention="block-causal",
        block_size=count(config, "block_size"),  # from 4 to 64; only config.json says which
        context=count(config, "max_position_embeddings"),
        begin=vocabulary.begin,
        ends=ends(config, vocabulary, "<|im_end|>", "<|endoftext|>"),
        suppressed=never_text(vocabulary, count(config, "vocab_size"), hidden),
        format=prompt_format(vocabulary),
    )


SDAR = Family(
    name="sdar",
    title="SDAR",
    recognises=lambda config, _: is_a(config, "SDARForCausalLM"),
    native=lambda config: native(config, "qwen3", "Qwen3ForCausalLM"),
    spec=_spec,
)
