"""All groups of pins, by name."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.pins import keeping, measuring, training, writing
from tests.pins.comparing import plain
from tests.pins.workshop import PINS, Workshop, machine_of_one_thread

GROUPS: dict[str, Callable[[Workshop], dict[str, Any]]] = {
    **writing.GROUPS,
    **measuring.GROUPS,
    **keeping.GROUPS,
    **training.GROUPS,
}


def found_by(group: str, folder: Path, brief: bool = False) -> Any:
    """What a group finds in a fresh copy of the stored registry: all of its cases, or a choice."""
    machine_of_one_thread()
    gc.freeze()  # each training collects garbage, and what was imported is none
    with patch("ssdcli.generation.writer.characters_of", lambda *_: None):  # the version before wrote any bytes
        return plain(GROUPS[group](Workshop.copied(folder, brief)))


def pins() -> dict[str, Any]:
    """All that is pinned, by group."""
    read: dict[str, Any] = json.loads(PINS.read_text(encoding="utf-8"))
    return read
