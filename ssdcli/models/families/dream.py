"""Dream (Ye et al., 2025): a Qwen2 with full attention, whose position i is predicted at i - 1."""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.facts import ends, never_text, number, prompt_format
from ssdcli.models.family import Config, Family, Vocabulary
from ssdcli.models.spec import CoreSpec

_BLOCK = 32
_FOREIGN = ("auto_map", "architectures", "model_type", "transformers_version", "mask_token_id")


def _native(config: Config) -> dict[str, Any]:
    own = {key: value for key, value in config.items() if key not in _FOREIGN}
    return own | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "is_causal": False}


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    mask = number(config, "mask_token_id")
    return CoreSpec(
        family="dream",
        process="masked",
        constants={"mask_id": mask},
        attention="full",
        block_size=_BLOCK,
        context=number(config, "max_position_embeddings"),
        shift=True,
        begin=vocabulary.begin,
        ends=ends(config, vocabulary, "<|im_end|>"),
        suppressed=never_text(vocabulary, number(config, "vocab_size"), mask),
        late_ends=vocabulary.chat,
        format=prompt_format(vocabulary),
    )


DREAM = Family(
    name="dream",
    title="Dream",
    recognises=lambda config, _: config.get("model_type") == "Dream",
    native=_native,
    spec=_spec,
)
