"""Dream (Ye et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.

Dream-Coder and DiffuCoder (Gong et al., 2025) are checkpoints of the same class.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, is_a, mask, masked_spec, native, off
from ssdcli.models.families.family import Config, Family, Vocabulary

_BLOCK = 32
_CONTEXT = 2048  # its training length; config.json repeats the 131072 of the Qwen2 that it was made from


def _native(config: Config) -> dict[str, Any]:
    off(config, "use_mrope")
    return native(config, "qwen2", "Qwen2ForCausalLM")


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "<|mask|>")
    common = masked_spec(config, vocabulary, hidden, "full", _BLOCK)
    return replace(
        common,
        context=min(common.context, _CONTEXT),
        shift=True,
        ends=ends(config, vocabulary, "<|im_end|>"),
        late_ends=vocabulary.chat,
    )


DREAM = Family(
    name="dream",
    title="Dream",
    recognises=lambda config, _: is_a(config, "DreamModel"),
    native=_native,
    spec=_spec,
)
