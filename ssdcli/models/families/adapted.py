"""Any native causal or masked language model that was adapted here: its config.json tells how it is run."""

from __future__ import annotations

from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.family import Config, Family, Vocabulary
from ssdcli.models.spec import KEY, CoreSpec


def _native(config: Config) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != KEY}


def _spec(config: Config, _: Vocabulary) -> CoreSpec:
    try:
        return CoreSpec.from_json(config[KEY])
    except (TypeError, KeyError, AttributeError) as error:
        raise SsdError(
            f"the table {KEY!r} of config.json does not tell how the model is run ({error}).",
            "Save the model again with this version of ssd.",
        ) from None


ADAPTED = Family(
    name="adapted",
    title="models adapted by ssd",
    recognises=lambda config, _: KEY in config,
    native=_native,
    spec=_spec,
)
