"""The config.json of a model in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import KEY
from ssdcli.registry.manifest import CONFIG

UNREADABLE = (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError)  # files that do not fit


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json; SsdError if it cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from error
    if not isinstance(config, dict):
        raise unreadable(folder, ValueError("its config.json holds no table"))
    return config


def native_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the native class, without the table of how it is run."""
    return {key: value for key, value in config.items() if key != KEY}


def completed(native: Mapping[str, Any]) -> dict[str, Any]:
    """A native configuration with the usual values of its class where it has none; ValueError for what has no class.

    What transformers wrote is complete, and names the parameters of its rotary embeddings.
    """
    if "rope_parameters" in native:
        return dict(native)
    from transformers import AutoConfig  # which takes a second

    try:
        usual = AutoConfig.for_model(**native).to_dict()
    except Exception as error:  # each class refuses in its own way
        raise ValueError(str(error)) from error
    return {**usual, "architectures": native["architectures"]}


def unreadable(folder: Path, error: Exception) -> SsdError:
    """The error for a model that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return SsdError(f"the model in {folder} cannot be read: {reason}.", "See 'ssd models verify'.")
