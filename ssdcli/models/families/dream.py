"""Dream (Ye et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.

Dream-Coder and DiffuCoder (Gong et al., 2025) are checkpoints of the same class.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.config import MaskedSpec, is_a, native, off
from ssdcli.models.families.family import Config, Family

_TRAINED = 2048  # its training length; config.json repeats the 131072 of the Qwen2 that it was made from


def _native(config: Config) -> dict[str, Any]:
    off(config, "use_mrope")
    return native(config, "qwen2", "Qwen2ForCausalLM")


DREAM = Family(
    name="dream",
    title="Dream",
    recognises=lambda config, _: is_a(config, "DreamModel"),
    native=_native,
    spec=MaskedSpec(masks=("<|mask|>",), trained=_TRAINED, shift=True, ends=("<|im_end|>",), padded=True),
)
