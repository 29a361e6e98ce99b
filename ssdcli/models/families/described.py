"""A language model of a native class whose config.json says in a table how it is run, such as a core of a registry."""

from __future__ import annotations

from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import KEY, CoreSpec
from ssdcli.models.families.causal import CAUSAL_CLASSES
from ssdcli.models.families.config import is_a
from ssdcli.models.families.family import Config, Family, Vocabulary

# Other classes do more to their inputs, or after their bodies, than the backbones here implement.
_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "RobertaForMaskedLM")


def _native(config: Config) -> dict[str, Any]:
    causal = [entry for entry in CAUSAL_CLASSES if is_a(config, entry.architecture)]
    if causal and _is_causal(config[KEY]):
        return causal[0].native({key: value for key, value in config.items() if key != KEY})
    if not is_a(config, *_CLASSES):
        raise SsdError(
            f"the checkpoint's config.json has 'architectures' as {config.get('architectures')!r}, which no "
            "checkpoint of this kind may have.",
            f"It may be one of {', '.join(_CLASSES)}.",
        )
    return {key: value for key, value in config.items() if key not in (KEY, "auto_map")}


def _is_causal(table: object) -> bool:
    return isinstance(table, dict) and table.get("attention") == "autoregressive"


def _spec(config: Config, _: Vocabulary) -> CoreSpec:
    try:
        return CoreSpec.from_json(config[KEY])
    except (TypeError, KeyError) as error:
        raise SsdError(
            f"the table {KEY!r} of config.json does not say how the model is run ({error}).",
            "Save the model again with this version of ssd; 'ssd models export' copies a registered one.",
        ) from None


DESCRIBED = Family(
    name="described",
    title="checkpoints whose config.json has a table 'ssd'",
    recognises=lambda config, _: KEY in config,
    native=_native,
    spec=_spec,
)
