"""DiffuGPT (Gong et al., 2024): a GPT-2 with full attention, whose position i is predicted at i - 1.

The small one has a GPT-2's config.json and masks with one of its words, the medium one with a token that was added;
both are known by a tokenizer that names a mask.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.config import MaskedSpec, is_a, masks_with_a_word, off
from ssdcli.models.families.family import Config, Drop, Family, Rename, Vocabulary

_MASK = "[¨M¨]"
_SHAPE = ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions", "n_inner", "activation_function")
_OTHERS = ("layer_norm_epsilon", "scale_attn_weights")
_FLAGS = ("add_cross_attention", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")


def _native(config: Config) -> dict[str, Any]:
    off(config, *_FLAGS)
    own = {key: config[key] for key in (*_SHAPE, *_OTHERS) if config.get(key) is not None}
    return own | {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "is_causal": False}


def _recognises(config: Config, vocabulary: Vocabulary) -> bool:
    its_mask = _MASK in vocabulary.ids or masks_with_a_word(vocabulary)
    return is_a(config, "GPT2LMHeadModel", "DiscreteDiffusionModel") and its_mask


DIFFUGPT = Family(
    name="diffugpt",
    title="DiffuGPT",
    recognises=_recognises,
    native=_native,
    spec=MaskedSpec(masks=(_MASK,), window="n_positions", shift=True, ends=("<|endoftext|>",)),
    keys=(
        Drop(r"denoise_model\.h\.\d+\.attn\.(bias|masked_bias)"),
        Drop(r"lm_head\.weight"),  # that of the embeddings
        Rename(r"embed_tokens\.weight", "transformer.wte.weight"),
        Rename(r"denoise_model\.(.*)", r"transformer.\1"),
    ),
)
