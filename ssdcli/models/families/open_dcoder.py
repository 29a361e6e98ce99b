"""Open-dCoder (Peng et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.

Its config.json is a causal Qwen2's; the mask that was added to its tokenizer tells them apart.
"""

from __future__ import annotations

from dataclasses import replace

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, is_a, mask, masked_spec, native
from ssdcli.models.families.family import Config, Family, Vocabulary

_BLOCK = 32
_MASK = "<M>"


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    common = masked_spec(config, vocabulary, mask(config, vocabulary, _MASK), "full", _BLOCK)
    return replace(common, shift=True, ends=ends(config, vocabulary, "<|endoftext|>"))


def _recognises(config: Config, vocabulary: Vocabulary) -> bool:
    added = vocabulary.ids.get(_MASK)
    return is_a(config, "Qwen2ForCausalLM") and added is not None and added == vocabulary.mask


OPEN_DCODER = Family(
    name="open-dcoder",
    title="Open-dCoder",
    recognises=_recognises,
    native=lambda config: native(config, "qwen2", "Qwen2ForCausalLM"),
    spec=_spec,
)
