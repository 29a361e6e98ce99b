"""Open-dCoder (Peng et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.

Its config.json is a causal Qwen2's; the mask that was added to its tokenizer tells them apart.
"""

from __future__ import annotations

from ssdcli.models.families.config import MaskedSpec, is_a, native
from ssdcli.models.families.family import Config, Family, Vocabulary

_MASK = "<M>"


def _recognises(config: Config, vocabulary: Vocabulary) -> bool:
    added = vocabulary.ids.get(_MASK)
    return is_a(config, "Qwen2ForCausalLM") and added is not None and added == vocabulary.mask


OPEN_DCODER = Family(
    name="open-dcoder",
    title="Open-dCoder",
    recognises=_recognises,
    native=lambda config: native(config, "qwen2", "Qwen2ForCausalLM"),
    spec=MaskedSpec(masks=(_MASK,), shift=True, ends=("<|endoftext|>",)),
)
