"""DiffuLLaMA (Gong et al., 2024): a Llama with full attention, whose position i is predicted at i - 1.

Its config.json is a causal Llama's. The tokenizer tells them apart: DiffuLLaMA's names as its mask one of Llama's own
tokens, a word. A causal Llama may have a mask too, but then a special token that was added for it.
"""

from __future__ import annotations

from ssdcli.models.families.config import MaskedSpec, is_a, masks_with_a_word, native
from ssdcli.models.families.family import Family

_TRAINED = 2048  # its training length; config.json repeats the 4096 of the Llama 2 that it was made from


DIFFULLAMA = Family(
    name="diffullama",
    title="DiffuLLaMA",
    recognises=lambda config, vocabulary: is_a(config, "LlamaForCausalLM") and masks_with_a_word(vocabulary),
    native=lambda config: native(config, "llama", "LlamaForCausalLM"),
    spec=MaskedSpec(trained=_TRAINED, shift=True),
)
