"""TESS-2 (Tae et al., ACL 2025): a Mistral with full attention that reads and predicts mixtures of tokens."""

from __future__ import annotations

from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, must, never_text, number, prompt_format
from ssdcli.models.families.family import Config, Family, Vocabulary
from ssdcli.models.families.ssdlm import SIMPLEX

_BLOCK = 128  # trained to write whole answers at once
_CONTEXT = 2048  # its training length, of Mistral's 32,768
_STEPS = 100  # of its published decoding
_KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def _native(config: Config) -> dict[str, Any]:
    must(config, "hidden_act", "silu")
    must(config, "is_causal", False)
    must(config, "disable_timestep_embed", False)
    must(config, "self_condition", "logits_mean")
    must(config, "self_condition_mix_before_weights", True)
    own = {key: config[key] for key in _KEPT if key in config}
    # Its attention window is longer than the texts it was trained on.
    return own | {
        "model_type": "mistral",
        "architectures": ["Tess2ForDiffusion"],
        "is_causal": False,
        "sliding_window": None,
    }


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    return CoreSpec(
        process="simplex",
        constants=SIMPLEX | {"steps": _STEPS},
        attention="full",
        block_size=_BLOCK,
        context=min(_CONTEXT, number(config, "max_position_embeddings")),
        shift=True,
        begin=vocabulary.begin,
        ends=ends(config, vocabulary, "[PAD]"),  # trained to fill the rest of a canvas after an answer with padding
        suppressed=never_text(vocabulary, number(config, "vocab_size")),
        format=prompt_format(vocabulary),
    )


TESS2 = Family(
    name="tess2",
    title="TESS-2",
    recognises=lambda config, _: config.get("model_type") == "mistral" and "self_condition" in config,
    native=_native,
    spec=_spec,
)
