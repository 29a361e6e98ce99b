"""Models small enough to be written many times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssdcli.registry.manifest import Manifest, write_manifest
from ssdcli.registry.store import Entry, Registry
from tests.registry.archives import FILES, FINGERPRINT


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


@pytest.fixture
def registry(tmp_path: Path, manifest: Callable[..., Manifest]) -> Registry:
    """An empty registry, with a starter that comes with it."""
    bundled = tmp_path / "bundled"
    (bundled / "starter").mkdir(parents=True)
    write_manifest(bundled / "starter", manifest(name="starter", kind="core", core=None))
    return Registry(tmp_path / "home", bundled)


@pytest.fixture
def put(registry: Registry, manifest: Callable[..., Manifest]) -> Callable[..., Entry]:
    """Registers a model with these files, whose tokenizer is the one that its manifest names."""

    def write(name: str = "notes", files: dict[str, bytes] = FILES, **changes: Any) -> Entry:
        with registry.stage(name) as folder:
            for file, content in files.items():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_bytes(content)
            write_manifest(folder, manifest(tokenizer=FINGERPRINT, **changes))
        return registry.find(name)

    return write


@pytest.fixture
def described(manifest: Callable[..., Manifest]) -> Callable[..., bytes]:
    """The text of a manifest that lists these files, with changes that no manifest need allow."""

    def describe(files: dict[str, bytes] = FILES, **changes: Any) -> bytes:
        made = manifest(tokenizer=FINGERPRINT)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        return json.dumps({**json.loads(made.to_json()), "files": digests, **changes}).encode()

    return describe


def fill(folder: Path, manifest: Manifest, content: str) -> None:
    (folder / "model.safetensors").write_text(content)
    (folder / "extra").mkdir()
    (folder / "extra" / "README.md").write_text(content)
    write_manifest(folder, manifest)
