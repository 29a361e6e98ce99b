"""Nemotron-Labs-Diffusion (NVIDIA, 2026): a Ministral 3 that reads a prefix token by token and a canvas whole.

The same weights predict the next token as well, and the published decoding takes the first token of each block from
that prediction; here a canvas is denoised whole.
"""

from __future__ import annotations

from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.families.config import MaskedSpec, is_a, native, off
from ssdcli.models.families.family import Config, Family, Rename

_PARADIGMS = ("bidirectional", "block_diff")


def _native(config: Config) -> dict[str, Any]:
    off(config, "sliding_window", "attention_bias", "mlp_bias")
    paradigm = config.get("dlm_paradigm")
    if paradigm not in _PARADIGMS:
        problem = f"the checkpoint's config.json has 'dlm_paradigm' as {paradigm!r}"
        raise SsdError(f"{problem}, which no diffusion model of this family has.", "Name another repository.")
    return native(config, "ministral3", "Ministral3ForCausalLM")


NEMOTRON_LABS = Family(
    name="nemotron-labs",
    title="Nemotron-Labs-Diffusion",
    recognises=lambda config, _: is_a(config, "NemotronLabsDiffusionModel"),
    native=_native,
    spec=MaskedSpec(attention="causal", block="block_size"),
    keys=(
        Rename(r"encoder\.(.*)", r"model.\1"),
        Rename(r"diffusion_head\.weight", "lm_head.weight"),
    ),
)
