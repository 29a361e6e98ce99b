"""What an adapter is made for: the weights of its base, which are not copied but known by their digest."""

from __future__ import annotations

import hashlib

from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.registry.manifest import Manifest
from ssdcli.registry.store import Entry, Registry

ADAPTER = "adapter"


def weights_digest(manifest: Manifest) -> str:
    """The sha256 of what a manifest lists of its model's weights, which stays the same under another name."""
    listed = sorted(f"{digest} {file}\n" for file, digest in manifest.files.items() if file.endswith(".safetensors"))
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def base_of(entry: Entry, registry: Registry) -> Entry | None:
    """The model that an adapter is loaded on; None for a model with weights of its own.

    Raises NoSuchModel if the base is gone, UsageError if another model has its name.
    """
    manifest = entry.manifest
    if manifest.kind != ADAPTER:
        return None
    try:
        base = registry.find(manifest.base or "")
    except (NoSuchModel, UsageError):
        raise NoSuchModel(
            f"{entry.name!r} is an adapter for {manifest.base!r}, and there is no model of this name.",
            "Import or pull it again; an adapter says nothing without its base.",
        ) from None
    if weights_digest(base.manifest) != manifest.base_weights:
        raise UsageError(
            f"{entry.name!r} is an adapter for another {manifest.base!r} than the one here: its weights have changed.",
            "Bring the old one back, or train the adapter again.",
        )
    return base
