"""A tiny causal core, memories of a few notes, and models that have one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ssdcli.engine.ensemble.gate import AverageGate
from ssdcli.models.memory.memory_files import Origin, remember, save_memory
from ssdcli.registry.manifest import write_manifest
from ssdcli.registry.store import Registry
from tests.pulled import add_causal
from tests.tiny import add_tiny, tiny_tokenizer

CORE = "causal"
NOTES = ("Dear landlord, the boiler is cold.\nThe stairs are dark again.\n", "The lift is dark and cold again.\n")
OF_ALL = AverageGate(("core", "small", "memory"), (0.5, 0.2, 0.3), ((-1.0, *[0.1] * 6), (-2.0, *[0.2] * 6)), True)
OF_SMALL = AverageGate(("core", "small"), (0.6, 0.4), ((-1.0, 0.1, 0.1, 0.1, 0.1),), True)
OF_MEMORY = AverageGate(("core", "memory"), (0.7, 0.3), ((-2.0, 0.5, -0.2, -0.5, 3.0),), True)
GATES = (OF_ALL, OF_SMALL, OF_MEMORY)


def write_notes(folder: Path, texts: tuple[str, ...] = NOTES) -> Path:
    """Write one file a note, `0.md` and so on, into a new folder."""
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    return folder


def add_notes(name: str = "notes", gates: tuple[AverageGate, ...] = GATES, **changes: Any) -> None:
    """Register the causal core and a small model for it that remembers NOTES."""
    if not (Registry().models / CORE).exists():
        add_causal(CORE)
    fields: dict[str, Any] = {"kind": "small", "core": CORE, "weight": 0.4, "gates": tuple(map(asdict, gates))}
    add_tiny(name, 2, **{**fields, **changes})
    give_memory(name)


def give_memory(name: str, texts: tuple[str, ...] = NOTES) -> None:
    """Give a registered model a memory of these texts, one in each file."""
    entry = Registry().find(name)
    ids = [tiny_tokenizer().encode(text).ids for text in texts]
    memory = remember(ids, [Origin(f"{number}.md") for number in range(len(texts))])
    save_memory(entry.folder, memory, entry.manifest.tokenizer)
    write_manifest(entry.folder, replace(entry.manifest, memory=memory.size))
