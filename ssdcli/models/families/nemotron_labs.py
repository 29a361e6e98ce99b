"""Nemotron-Labs-Diffusion (NVIDIA, 2026): a Ministral 3 that reads a prefix token by token and a canvas whole.

The same weights predict the next token as well, and the published decoding takes the first token of each block from
that prediction; here a canvas is denoised whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import CoreSpec
from ssdcli.models.families.config import count, ends, is_a, mask, masked_spec, native, off
from ssdcli.models.families.family import Config, Family, Rename, Vocabulary

_PARADIGMS = ("bidirectional", "block_diff")


def _native(config: Config) -> dict[str, Any]:
    off(config, "sliding_window", "attention_bias", "mlp_bias")
    paradigm = config.get("dlm_paradigm")
    if paradigm not in _PARADIGMS:
        problem = f"the checkpoint's config.json has 'dlm_paradigm' as {paradigm!r}"
        raise SsdError(f"{problem}, which no diffusion model of this family has.", "Name another repository.")
    return native(config, "ministral3", "Ministral3ForCausalLM")


def _spec(config: Config, vocabulary: Vocabulary) -> CoreSpec:
    common = masked_spec(config, vocabulary, mask(config, vocabulary), "causal", count(config, "block_size"))
    return replace(common, ends=ends(config, vocabulary))


NEMOTRON_LABS = Family(
    name="nemotron-labs",
    title="Nemotron-Labs-Diffusion",
    recognises=lambda config, _: is_a(config, "NemotronLabsDiffusionModel"),
    native=_native,
    spec=_spec,
    keys=(
        Rename(r"encoder\.(.*)", r"model.\1"),
        Rename(r"diffusion_head\.weight", "lm_head.weight"),
    ),
)
