"""`ssd models`: look at the registry and change it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import core_names, model_names
from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.store import Entry, Registry

Model = Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=model_names)]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]

models = typer.Typer(help="List, show, remove, rename and check the models of the registry.")


def register(app: typer.Typer) -> None:
    """Add `ssd models` to the app."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the models."""
    registry = Registry()
    default = registry.default()
    entries = registry.entries()
    if as_json:
        console.write_json([_summary(entry, default) for entry in entries])
    else:
        header = ("NAME", "KIND", "PROCESS", "PARAMETERS", "CORE", "WEIGHT", "")
        console.write_table([header, *(_row(entry, default) for entry in entries)])
    for name, problem in registry.broken().items():
        console.warn(f"the model folder {name!r} is broken: {problem}")


@models.command()
def show(name: Model, as_json: AsJson = False) -> None:
    """Show a model's manifest, its folder and its card."""
    registry = Registry()
    entry = registry.find(name)
    facts = asdict(entry.manifest) | {
        "path": str(entry.folder),
        "bundled": entry.bundled,
        "default": registry.default() == name,
    }
    card = _card(entry)
    if as_json:
        console.write_json({**facts, "card": card})
        return
    console.write_table([(key.replace("_", " "), _shown(value)) for key, value in facts.items()])
    if card:
        console.write(f"\n{card.rstrip()}")


@models.command()
def rm(
    name: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without asking.")] = False,
) -> None:
    """Remove a model and its weights for good."""
    registry = Registry()
    if name not in registry.broken():
        registry.find(name)
    if not yes:
        _confirm_removal(name)
    registry.remove(name)
    console.note(f"Removed {name!r}.")
    for entry in registry.entries():
        if entry.manifest.core == name:
            console.warn(f"{entry.name!r} was made for {name!r}, which is gone; name another core with --core.")
        if entry.manifest.base == name:
            console.warn(f"{entry.name!r} has lost its base {name!r}; --rule contrast needs one of this name.")


@models.command()
def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="The model.", autocompletion=model_names)],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
) -> None:
    """Give a model another name."""
    Registry().rename(old, new)
    console.note(f"Renamed {old!r} to {new!r}.")


@models.command()
def default(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The core to use.", autocompletion=core_names)
    ] = None,
) -> None:
    """Print the core that is used when none is named, or choose it."""
    registry = Registry()
    if name is None:
        console.write(registry.default())
    else:
        registry.set_default(name)
        console.note(f"{name!r} is the default core now.")


@models.command()
def verify(name: Model) -> None:
    """Check a model's files against the digests in its manifest."""
    registry = Registry()
    wrong = registry.verify(name)
    if wrong:
        raise SsdError(
            f"{len(wrong)} of the files of {name!r} differ from their digests: {', '.join(wrong)}.",
            "Remove the model and make or pull it again.",
        )
    console.write(f"{name}: {len(registry.find(name).manifest.files)} files match their digests")


def _summary(entry: Entry, default: str) -> dict[str, object]:
    manifest = entry.manifest
    return {
        "name": entry.name,
        "kind": manifest.kind,
        "process": manifest.process,
        "parameters": manifest.parameters,
        "core": manifest.core,
        "weight": manifest.weight,
        "bundled": entry.bundled,
        "default": entry.name == default,
    }


def _row(entry: Entry, default: str) -> tuple[str, ...]:
    manifest = entry.manifest
    marks = [*(["bundled"] if entry.bundled else []), *(["default"] if entry.name == default else [])]
    numbers = (_in_millions(manifest.parameters), manifest.core or "-", _shown(manifest.weight))
    return (entry.name, manifest.kind, manifest.process, *numbers, ", ".join(marks))


def _in_millions(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _card(entry: Entry) -> str:
    path = entry.folder / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _confirm_removal(name: str) -> None:
    if not console.can_ask():
        raise UsageError(f"removing {name!r} needs a yes, and there is no terminal to ask on.", "Pass --yes.")
    if not console.agrees(f"Remove {name!r} for good?"):
        raise SsdError(f"{name!r} was kept.")
