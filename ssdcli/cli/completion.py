"""Completion of names in the shell, from manifests and file names alone."""

from __future__ import annotations

from ssdcli.errors import SsdError
from ssdcli.registry import recipes
from ssdcli.registry.manifest import MEMBERS
from ssdcli.registry.store import Entry, Registry


def model_names(incomplete: str) -> list[tuple[str, str]]:
    """The models whose names begin like this, each with its kind."""
    return [(e.name, e.manifest.kind) for e in _entries() if e.name.startswith(incomplete)]


def core_names(incomplete: str) -> list[tuple[str, str]]:
    """The cores whose names begin like this."""
    return _of_kinds(("core",), incomplete)


def member_names(incomplete: str) -> list[tuple[str, str]]:
    """The models that can join a core and whose names begin like this."""
    return _of_kinds(MEMBERS, incomplete)


def beginning_names(incomplete: str) -> list[tuple[str, str]]:
    """The models that a training can begin from and whose names begin like this."""
    return _of_kinds(("core", "small"), incomplete)


def recipe_names(incomplete: str) -> list[str]:
    """The recipes whose names begin like this."""
    return [name for name in recipes.recipe_names() if name.startswith(incomplete)]


def _of_kinds(kinds: tuple[str, ...], incomplete: str) -> list[tuple[str, str]]:
    found = [entry for entry in _entries() if entry.manifest.kind in kinds]
    return [(e.name, e.manifest.process) for e in found if e.name.startswith(incomplete)]


def _entries() -> list[Entry]:
    try:
        return Registry().entries()
    except (SsdError, OSError):  # a shell that asks for names has no place for an error
        return []
