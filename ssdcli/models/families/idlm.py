"""I-DLM (Yu et al., 2026): a Qwen3 with causal attention, whose position i is predicted at i - 1.

It was trained to draft several tokens at masks as well, which is not used here: it is run as the causal model that it
is. Its class is SDAR's; config.json says that its attention is causal.
"""

from __future__ import annotations

from typing import Any

from ssdcli.models.families.causal import CAUSAL_CLASSES
from ssdcli.models.families.config import is_a, native
from ssdcli.models.families.family import Config, Family

_QWEN3 = next(entry for entry in CAUSAL_CLASSES if entry.model_type == "qwen3")


def _native(config: Config) -> dict[str, Any]:
    return native(config, _QWEN3.model_type, _QWEN3.architecture) | {"is_causal": True}


IDLM = Family(
    name="idlm",
    title="I-DLM",
    recognises=lambda config, _: is_a(config, "SDARForCausalLM") and config.get("use_regular_causal") is True,
    native=_native,
    spec=_QWEN3.spec,
)
