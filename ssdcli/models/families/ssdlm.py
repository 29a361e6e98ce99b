"""SSD-LM (Han et al., ACL 2023): a RoBERTa that reads noised blocks through a table of their own."""

from __future__ import annotations

from typing import Any

from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import ends, must, never_text, number, special
from ssdcli.models.families.family import Config, Family, Vocabulary

SIMPLEX = {"K": 5.0, "s": 1e-4}  # the logits' magnitude and the cosine schedule's offset, which no file has

_BLOCK = 24  # trained on 25; with a multiple of 4, a row has the same bits in any batch
_CONTEXT = 200  # its training length, of RoBERTa's 512
_STEPS = 1000  # of its published decoding
_KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def _native(config: Config) -> dict[str, Any]:
    must(config, "hidden_act", "gelu")
    must(config, "position_embedding_type", "absolute")
    must(config, "is_decoder", False)
    must(config, "tie_word_embeddings", True)
    own = {key: config[key] for key in _KEPT if key in config}
    return own | {"model_type": "roberta", "architectures": ["SsdLmForDiffusion"]}


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    padding = number(config, "pad_token_id")
    return CoreSpec(
        process="simplex",
        constants=SIMPLEX | {"steps": _STEPS},
        attention="full",
        block_size=_BLOCK,
        context=min(_CONTEXT, number(config, "max_position_embeddings") - padding - 1),
        begin=number(config, "bos_token_id"),
        ends=ends(config, vocabulary),
        suppressed=never_text(vocabulary, number(config, "vocab_size"), padding, special(vocabulary, "<mask>")),
    )


SSDLM = Family(
    name="ssdlm",
    title="SSD-LM",
    recognises=lambda config, _: config.get("model_type") == "roberta",
    native=_native,
    spec=_spec,
    pickles={
        "pytorch_model.bin": "",
        "embed_sum_layer.pt": "embed_sum_layer.",
        "timestep_layer.pt": "timestep_layer.",
    },
)
