"""The config.json of a model in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdcli.errors import SsdError
from ssdcli.models.core_spec import KEY
from ssdcli.registry.manifest import CONFIG


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


def unreadable(folder: Path, error: Exception) -> SsdError:
    """The error for a model that cannot be read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return SsdError(f"the model in {folder} cannot be read: {reason}.", "See 'ssd models verify'.")
