"""What the registry tells of what is stored, and what archives bring back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

from tests.pins.workshop import Workshop, without


def models(shop: Workshop) -> dict[str, Any]:
    """`ssd models`: list, show, verify and default."""
    (listed,) = shop.json("models", "list")
    found: dict[str, Any] = {"list": {model["name"]: model for model in listed}}
    for name in found["list"]:
        (shown,) = shop.json("models", "show", name)
        found[f"show {name}"] = without(shown, "path", "card")
        shop.run("models", "verify", name)  # fails where a file is not what it was
    found["default"] = shop.text("models", "default")
    return found


def archives(shop: Workshop) -> dict[str, Any]:
    """An archive of old becomes a model that writes as it did, and goes out again."""
    shop.run("models", "import", "archives/based.tar")
    shop.run("models", "import", "archives/based.tar", "--as", "again")
    asked = ("The vurdel", "--with", "again=0.5", "--rule", "contrast", "--steps", "3", "--max-tokens", "8")
    (written,) = shop.json("generate", *asked, "--seed", "5")
    exported = shop.run("models", "export", "again", "-")
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        names = sorted(archive.getnames())
    shop.run("models", "import", "-", "--as", "round", stdin=exported)
    shop.run("models", "rename", "notes-masked", "renamed")
    shop.run("models", "rm", "--yes", "again")
    left = {name: without(shop.manifest(name), "created", "versions") for name in ("round", "based", "renamed")}
    return {"text": written["text"], "names": names, "manifests": left}


GROUPS: dict[str, Callable[[Workshop], dict[str, Any]]] = {"models": models, "archives": archives}
