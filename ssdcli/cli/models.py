"""`ssd models`: look at the registry and change it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import core_names, model_names
from ssdcli.engine import catalogue
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.machine.units import counted, in_parameters
from ssdcli.options.declare import STREAM
from ssdcli.registry.compatibility import misfit
from ssdcli.registry.manifest import ADAPTER, HEAD, MEMORY, Manifest
from ssdcli.registry.store import Entry, Registry

_DIGEST = 64  # characters of a sha256

Model = Annotated[str, typer.Argument(metavar="NAME", help="The model.", autocompletion=model_names)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what already has this name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


models = typer.Typer(help="List, show, rename, remove, verify, export and import models.")


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
def show(
    name: Model,
    everything: Annotated[bool, typer.Option("--all", help="Show its manifest, folder and card as well.")] = False,
    as_json: AsJson = False,
    open_report: Annotated[bool, typer.Option("--open", help="Also open its training report in the browser.")] = False,
) -> None:
    """Show what a model is, what it was made from, how good it is, and what to type."""
    registry = Registry()
    entry = registry.find(name)
    if open_report:
        _open_report(entry)
    is_default = registry.default() == name
    facts = entry.manifest.facts() | {"path": str(entry.folder), "bundled": entry.bundled, "default": is_default}
    card = _card(entry)
    if as_json:
        console.write_json({**facts, "plain": entry.manifest.format == "plain", "card": card})
        return
    _write_overview(entry, is_default)
    if everything:
        console.write("")
        console.write_sheet([(key.replace("_", " "), _all_of(value)) for key, value in facts.items()])
        console.write(f"\n{_printable(card.rstrip())}" if card else "", end="\n" if card else "")


def _write_overview(entry: Entry, is_default: bool) -> None:
    """Write a model's overview as a title and a sheet."""
    from ssdcli.registry.archive import REPORT
    from ssdcli.reports.overview import overview

    told = overview(entry, is_default=is_default)
    width = max((len(who) for who, _ in told.figures), default=0)
    figures = [f"  {who:{width}}  {value}" for who, value in told.figures]
    report = [f"ssd models show {entry.name} --open for its report"] * (entry.folder / REPORT).is_file()
    rows = {
        "made from": [told.origin],
        "memory": told.memory,
        "how good": [told.measured, *figures, *[told.caveat] * bool(figures)],
        "prompts": [told.prompts],
        "privacy": _privacy(entry),
        "type": told.commands,
        "more": [*report, f"ssd models show {entry.name} --all for digests, constants and the card"],
    }
    console.write(_printable(told.title) + "\n")
    console.write_sheet([(heading, [_printable(line) for line in lines]) for heading, lines in rows.items() if lines])


def _privacy(entry: Entry) -> list[str]:
    """What is known of how much a model gives away; nothing for one that was not made from somebody's own text."""
    from ssdcli.evaluation.audit.verdict import judge

    if entry.manifest.source is not None or entry.bundled:
        return []
    if entry.manifest.kind == MEMORY:
        return ["it is the text itself; --max-copy N of 'ssd generate' bounds how much of it is repeated word for word"]
    if entry.manifest.kind == HEAD:
        return ["it learned the core's predictions, not the text; which tokens are frequent there can be read off it"]
    verdict = judge(entry.name, entry.manifest.metrics)
    unknown = f"never audited, so treat its weights like the text itself; 'ssd audit {entry.name} TEXT' measures it"
    return [unknown if verdict is None else str(verdict)]


def _all_of(value: object) -> list[str]:
    """A value of a manifest in lines: of a table one for each entry, a digest below its file's name."""
    if isinstance(value, tuple):
        return [", ".join(map(str, value)) or "-"]
    if isinstance(value, dict):
        lines = [line for key, one in value.items() for line in _entry_lines(key, _shown(one))]
        return [_printable(line) for line in lines] or ["-"]
    return [_printable(_shown(value))]


def _entry_lines(key: str, value: str) -> list[str]:
    return [key, f"  {value}"] if len(value) >= _DIGEST else [f"{key}: {value}"]


@models.command()
def rm(
    name: Model,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without asking.")] = False,
) -> None:
    """Delete a model and its weights permanently."""
    registry = Registry()
    if name not in registry.broken():
        registry.find(name)
    _warn_of_dependents(name, registry)
    if not yes:
        _confirm_removal(name)
    registry.remove(name)
    console.note(f"Removed {name!r}.")


def _warn_of_dependents(name: str, registry: Registry) -> None:
    """Warn of what the other models lose with one that is about to be removed."""
    for entry in registry.entries():
        needs = entry.manifest.core if entry.manifest.kind == HEAD else entry.manifest.origin
        if needs == name:
            console.warn(f"{entry.name!r} is {entry.manifest.noun} for {name!r} and cannot be used without it.")
            continue
        if entry.manifest.core == name:
            console.warn(f"{entry.name!r} was made for {name!r}; without it, name another core with --core.")
        if entry.manifest.base == name:
            rule = catalogue.needing("base").name
            console.warn(f"{entry.name!r} loses its base {name!r}; --rule {rule} needs one of this name.")


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
    """Print or choose the core that is used when none is named."""
    registry = Registry()
    if name is None:
        console.write(registry.default())
    else:
        registry.set_default(name)
        console.note(f"Made {name!r} the default core.")


@models.command()
def verify(name: Model) -> None:
    """Check a model's files against the digests in its manifest."""
    from ssdcli.registry.archive import MEMORY_FILES, RECALL

    registry = Registry()
    with console.waiting("checking"):
        wrong = registry.verify(name)
    if wrong:
        problem = f"{name!r} differs from its manifest in {counted(len(wrong), 'file')}: {', '.join(wrong)}."
        if set(wrong) <= {*MEMORY_FILES, RECALL}:
            raise SsdError(problem, f"Build its memory again with 'ssd train-small DATA --update {name}'.")
        raise SsdError(problem, "Remove the model and make or pull it again.")
    console.write(f"{name}: {len(registry.find(name).manifest.files)} files match their digests")


@models.command()
def export(
    name: Model,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The archive, by default NAME.tar; '-' is standard output.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model to one file, which 'ssd models import' reads."""
    from ssdcli.registry import archive

    entry = Registry().find(name)
    target = f"{name}.tar" if file is None else file
    path = Path(target).expanduser()
    if target != STREAM:
        archive.check_target(path, overwrite)
    elif sys.stdout.isatty():
        raise UsageError("an archive cannot be shown on a terminal.", "Name a file, or pipe it somewhere.")
    is_private = entry.manifest.source is None and not entry.bundled  # so made from somebody's text
    if is_private and entry.manifest.kind not in (MEMORY, HEAD):  # of a memory no archive is written
        _warn_of_leaks(entry)
    if target != STREAM:
        with console.waiting("writing"):
            archive.export_to_file(entry, path, overwrite)
    else:
        archive.export_model(entry, sys.stdout.buffer)
    console.note(f"Exported {name!r}{' without its memory' * (entry.manifest.memory is not None)}.")


def _warn_of_leaks(entry: Entry) -> None:
    """Warn of what a recipient could learn of the training text, if that was measured."""
    from ssdcli.evaluation.audit.verdict import judge

    verdict = judge(entry.name, entry.manifest.metrics)
    if verdict is None:
        console.warn(
            f"the weights of {entry.name!r} carry private text, and how much was never measured (ssd audit "
            f"{entry.name} DATA); give them only to people whom you would give that text."
        )
    else:
        console.warn(str(verdict))


@models.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What 'ssd models export' wrote; '-' is standard input.")],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Give it another name.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Register the model in an archive, after checking all of it."""
    from ssdcli.registry import archive

    registry = Registry()
    with _archive(file) as stream, console.waiting("reading"):
        source = "standard input" if file == STREAM else repr(file)
        entry = archive.import_model(registry, stream, source, name, overwrite)
    console.note(f"Imported {entry.name!r}.")
    _warn_of_links(entry, {other.name: other.manifest for other in registry.entries()})
    try:
        registry.origin_of(entry)
    except (NoSuchModel, UsageError) as error:
        console.warn(f"{error.problem} {error.remedy}")


@contextmanager
def _archive(file: str) -> Iterator[BinaryIO]:
    if file == STREAM:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("standard input holds no archive.", "Name a file, or pipe one in.")
        yield sys.stdin.buffer
        return
    try:
        stream = Path(file).expanduser().open("rb")
    except OSError as error:
        problem = f"the archive {file!r} cannot be read ({error.strerror})."
        raise UsageError(problem, "Name a file that 'ssd models export' wrote.") from error
    with stream:
        yield stream


def _warn_of_links(entry: Entry, others: Mapping[str, Manifest]) -> None:
    """Warn of what an imported model was made for or from, where it is missing or does not fit; others: by name."""
    name, core, base = entry.name, entry.manifest.core, entry.manifest.base
    if core is not None and core not in others:
        if entry.manifest.origin != core:  # else the next warning is of it
            console.warn(
                f"{name!r} was made for {core!r}, and there is no model of this name; pull, train or import it."
            )
    elif core is not None and (problem := misfit(entry.manifest, others[core])) is not None:
        console.warn(f"{name!r} was made for another {core!r} than the one here: {problem}.")
    if base is not None and base not in others and entry.manifest.kind != ADAPTER:
        rule = catalogue.needing("base").name
        console.warn(f"{name!r} was specialised from {base!r}; --rule {rule} needs a model of this name.")


def _summary(entry: Entry, default: str) -> dict[str, object]:
    manifest = entry.manifest
    return {
        "name": entry.name,
        "kind": manifest.kind,
        "process": manifest.process,
        "parameters": manifest.parameters,
        "core": manifest.core,
        "base": manifest.base,
        "weight": manifest.weight,
        "memory": manifest.memory,
        "bundled": entry.bundled,
        "default": entry.name == default,
    }


def _row(entry: Entry, default: str) -> tuple[str, ...]:
    manifest = entry.manifest
    beside = [f"on {manifest.base}"] if manifest.kind == ADAPTER else []
    marks = [*beside, *(["bundled"] if entry.bundled else []), *(["default"] if entry.name == default else [])]
    size = "elsewhere" if manifest.is_remote else in_parameters(manifest.parameters)
    numbers = (size, manifest.core or "-", _shown(manifest.weight))
    return (entry.name, manifest.kind, manifest.process, *numbers, ", ".join(marks))


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items()) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    # A model from elsewhere may say what it likes about itself, but must not send control codes to the terminal.
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def _open_report(entry: Entry) -> None:
    """Open a model's report in the browser and print its path; SsdError if there is none."""
    import webbrowser

    from ssdcli.registry.archive import REPORT

    report = entry.folder / REPORT
    if not report.is_file():
        raise SsdError(
            f"{entry.name!r} has no report: only training writes one, and it stays on the machine where that ran.",
            f"Read its card with 'ssd models show {entry.name} --all'.",
        )
    typer.echo(report, err=True)
    if not webbrowser.open(report.as_uri()):
        console.warn("no browser could be opened; open the file yourself.")


def _card(entry: Entry) -> str:
    path = entry.folder / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _confirm_removal(name: str) -> None:
    if not console.can_ask():
        raise UsageError(f"removing {name!r} needs confirmation, and there is no terminal to ask on.", "Pass --yes.")
    if not console.agrees(f"Delete {name!r} permanently?"):
        raise SsdError(f"{name!r} was kept.")
