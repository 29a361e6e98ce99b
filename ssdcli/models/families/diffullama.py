"""DiffuLLaMA (Gong et al., 2024): a Llama with full attention, whose position i is predicted at i - 1.

Its config.json is a causal Llama's. The tokenizer tells them apart: DiffuLLaMA's names as its mask one of Llama's own
tokens, a word. A causal Llama may have a mask too, but then a special token that was added for it.
"""

from __future__ import annotations

from dataclasses import replace

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, is_a, mask, masked_spec, masks_with_a_word, native
from ssdcli.models.families.family import Config, Family, Vocabulary

_BLOCK = 32
_CONTEXT = 2048  # its training length; config.json repeats the 4096 of the Llama 2 that it was made from


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary)
    common = masked_spec(config, vocabulary, hidden, "full", _BLOCK)
    return replace(common, context=min(common.context, _CONTEXT), shift=True, ends=ends(config, vocabulary))


DIFFULLAMA = Family(
    name="diffullama",
    title="DiffuLLaMA",
    recognises=lambda config, vocabulary: is_a(config, "LlamaForCausalLM") and masks_with_a_word(vocabulary),
    native=lambda config: native(config, "llama", "LlamaForCausalLM"),
    spec=_spec,
)
