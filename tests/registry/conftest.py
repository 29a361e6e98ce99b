"""Models small enough to be written many times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssdcli.registry.manifest import Manifest, write_manifest
from ssdcli.registry.store import Registry


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """Makes a valid manifest, with the fields given in place of the usual ones."""

    def make(**changes: Any) -> Manifest:
        fields: dict[str, Any] = {
            "name": "notes",
            "kind": "small",
            "architecture": "qwen3",
            "process": "simplex",
            "constants": {"k": 5.0},
            "block_size": 25,
            "context": 512,
            "attention": "block-causal",
            "vocabulary": 8192,
            "tokenizer": "ab" * 32,
            "parameters": 5_000_000,
            "core": "starter",
            "created": "2026-01-02T03:04:05+00:00",
        }
        return Manifest(**{**fields, **changes})

    return make


@pytest.fixture
def add(manifest: Callable[..., Manifest]) -> Callable[..., None]:
    """Puts a model with some content into a registry."""

    def put(registry: Registry, name: str, content: str = "weights", overwrite: bool = False, **changes: Any) -> None:
        with registry.stage(name, overwrite) as folder:
            fill(folder, manifest(name=name, **changes), content)

    return put


def fill(folder: Path, manifest: Manifest, content: str) -> None:
    (folder / "model.safetensors").write_text(content)
    (folder / "extra").mkdir()
    (folder / "extra" / "README.md").write_text(content)
    write_manifest(folder, manifest)
