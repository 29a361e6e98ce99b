"""ModernBERT (Warner et al., 2024) as a masked diffusion model, such as those that dLLM trained to chat.

Some of its layers see all of the text, the others only what is near.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import MaskedSpec, count, is_a, off
from ssdcli.models.families.family import Config, Drop, Family, Vocabulary

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SHAPE = (
    "max_position_embeddings",
    "hidden_activation",
    "classifier_activation",
    "norm_eps",
    "norm_bias",
    "attention_bias",
    "mlp_bias",
    "decoder_bias",
    "classifier_bias",
    "global_attn_every_n_layers",
    "layer_types",
    "local_attention",
    "global_rope_theta",
    "local_rope_theta",
    "rope_parameters",
    "pad_token_id",
)


def _native(config: Config) -> dict[str, Any]:
    for key in _SIZES:
        count(config, key)
    off(config, "sparse_prediction")
    own = {key: config[key] for key in (*_SIZES, *_SHAPE) if config.get(key) is not None}
    return own | {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "is_causal": False}


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    common = MaskedSpec(masks=("[MASK]",), ends=("[SEP]",))(config, vocabulary)
    return replace(common, begin=vocabulary.ids.get("[CLS]", common.begin))


MODERNBERT = Family(
    name="modernbert",
    title="ModernBERT",
    recognises=lambda config, _: is_a(config, "ModernBertForMaskedLM"),
    native=_native,
    spec=_spec,
    keys=(Drop(r"decoder\.weight"),),  # that of the embeddings
)
