"""Dream (Ye et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1.

Dream-Coder and DiffuCoder (Gong et al., 2025) are checkpoints of the same class.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, native, never_text, off, prompt_format
from ssdcli.models.families.family import Config, Family, Vocabulary

_BLOCK = 32
_CONTEXT = 2048  # its training length; config.json repeats the 131072 of the Qwen2 that it was made from


def _native(config: Config) -> dict[str, Any]:
    off(config, "use_mrope")
    return native(config, "qwen2", "Qwen2ForCausalLM")


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    hidden = mask(config, vocabulary, "<|mask|>")
    return CoreSpec(
        process="masked",
        constants={"mask_id": hidden},
        attention="full",
        block_size=_BLOCK,
        context=min(count(config, "max_position_embeddings"), _CONTEXT),
        shift=True,
        begin=vocabulary.begin,
        ends=ends(config, vocabulary, "<|im_end|>"),
        suppressed=never_text(vocabulary, count(config, "vocab_size"), hidden),
        late_ends=vocabulary.chat,
        format=prompt_format(vocabulary),
    )


DREAM = Family(
    name="dream",
    title="Dream",
    recognises=lambda config, _: is_a(config, "DreamModel"),
    native=_native,
    spec=_spec,
)
