"""`ssd train-small`: a small model from the user's own text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.flags import Recipe, given_flags, resolve, with_flags
from ssdcli.cli.progress import Screen, stoppable
from ssdcli.engine.ensemble.gate import PUBLIC_GATE, gate_of
from ssdcli.errors import UsageError, on_out_of_memory, require
from ssdcli.machine.distributed import from_rank_zero
from ssdcli.machine.environment import import_torch, prepare_machine
from ssdcli.machine.units import counted
from ssdcli.options.declare import flag_of
from ssdcli.registry.recipes import find_recipe
from ssdcli.registry.store import Registry
from ssdcli.training.settings import TrainSettings
from ssdcli.training.unfinished import begin, resumed

if TYPE_CHECKING:
    from ssdcli.reports.description import Quality
    from ssdcli.training.draft_heads import TrainedHead
    from ssdcli.training.job import Trained

_READING = ("quotes", "include")  # flags that say how text is read


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-small")(with_flags(TrainSettings, train_small))


def train_small(
    flags: Mapping[str, object],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of this name.")] = False,
    memory_only: Annotated[
        bool, typer.Option("--memory-only", help="Make a memory of the text alone, in seconds, without training.")
    ] = False,
    update: Annotated[
        str | None,
        typer.Option("--update", metavar="NAME", help="Build the memory of a model again from the text as it is now."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be read, with ten samples, and train nothing.")
    ] = False,
    recipe: Recipe = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Train a small model on your own text, on this machine, and register it."""
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    if memory_only or update is not None:
        _check_memory(given, memory_only=memory_only, update=update, resume=resume, dry_run=dry_run)
        if update is not None:
            Registry().find(update)  # a typo is answered before torch is imported
        _remember(given, update, recipe, overwrite=overwrite, as_json=json)
        return
    prepare_machine()
    if dry_run:
        _show(resolve(TrainSettings, given, None if recipe is None else find_recipe(recipe)), as_json=json)
        return
    settings = from_rank_zero(lambda: _settings(given, recipe, resume=resume, overwrite=overwrite))
    remedy = "Choose a smaller --size or a smaller --batch-tokens."
    with on_out_of_memory(remedy), stoppable() as stop, Screen(settings.name) as screen:
        import_torch()
        from ssdcli.training.draft_heads import train_head
        from ssdcli.training.job import train_small as run

        watcher = screen.watcher(stop)
        if settings.draft_head:
            found: TrainedHead | Trained = train_head(settings, watcher, overwrite=overwrite)
        else:
            found = run(settings, watcher, overwrite=overwrite)
    _tell(found, as_json=json)


def _show(settings: TrainSettings, *, as_json: bool) -> None:
    """Write what a training would read to standard output."""
    with console.waiting("reading"):
        from ssdcli.training.dry_run import dry_run

        found = dry_run(settings, Registry())
    if as_json:
        console.write_json(found.to_json())
        return
    for line in found.lines():
        console.write(line)


def _settings(given: dict[str, object], recipe: str | None, *, resume: bool, overwrite: bool) -> TrainSettings:
    """The settings of a new training from flags, or those of a saved one with what may change."""
    if resume:
        if "name" not in given:
            raise UsageError("--resume needs the name of a training.", "Pass --name.")
        changes = given_flags(TrainSettings, given)
        return resumed(Registry(), str(changes.pop("name")), changes)
    settings = resolve(TrainSettings, given, None if recipe is None else find_recipe(recipe))
    for budget, other in (("minutes", "steps"), ("steps", "minutes")):
        if budget in given and other not in given:  # a flag also wins over the other kind of budget from elsewhere
            settings = replace(settings, **{other: None})  # type: ignore[arg-type]
    begin(Registry(), settings, overwrite=overwrite)
    return settings


def _check_memory(
    given: Mapping[str, object], *, memory_only: bool, update: str | None, resume: bool, dry_run: bool
) -> None:
    """Raise UsageError for flags that do not go with a memory."""
    both = memory_only and update is not None
    require(not both, "--memory-only makes a new memory, and --update changes one.", "Omit one of them.")
    require(not resume, "a memory takes seconds, so there is nothing to resume.", "Omit --resume.")
    flag = "--memory-only" if update is None else "--update"
    require(not dry_run, "--dry-run shows what a training would read.", f"Omit {flag}: the same text is read without.")
    require(given.get("memory") is not False, "--no-memory leaves nothing to do here.", "Omit it.")
    known = {"data", *_READING} | (set() if update is not None else {"core", "name", "memory"})
    others = [f"--{flag_of(member)}" for member in fields(TrainSettings) if member.name in set(given) - known]
    if others:
        raise UsageError(f"{' and '.join(others)} cannot be used with {flag}.", "Omit what a memory has no use for.")


def _remember(
    given: dict[str, object], update: str | None, recipe: str | None, *, overwrite: bool, as_json: bool
) -> None:
    """Make or update a memory, and tell what it holds."""
    if update is None:
        settings = resolve(TrainSettings, given, None if recipe is None else find_recipe(recipe))
        with console.waiting(f"reading for {settings.name}"):
            from ssdcli.training.remember import train_memory

            found = train_memory(settings, overwrite=overwrite)
    else:
        data = given.get("data", [])
        assert isinstance(data, list)
        require(bool(data), "no text is named.", "Name files or folders, or - for standard input.")
        own = {name: value for name, value in given.items() if name in _READING}
        reading = TrainSettings(**given_flags(TrainSettings, own)).reading if own else None  # type: ignore[arg-type]
        with console.waiting(f"reading for {update}"):
            from ssdcli.training.remember import update_memory

            found = update_memory(update, data, reading=reading)
    for line in found.report:
        console.note(line)
    if as_json:
        facts = {"name": found.name, **found.size, "new": found.learned, "forgotten": found.forgotten}
        console.write_json(facts)
        return
    size = f"{counted(found.size['texts'], 'text')} of {counted(found.size['tokens'], 'token')}"
    console.write(f"{found.name}: a memory of {size}, {found.folder}")
    if update is not None:
        weights = "; the weights stay as they are" if found.has_weights else ""
        console.write(f"{counted(found.learned, 'text')} new, {found.forgotten:,} forgotten{weights}")
    console.note(f"Now try: ssd generate {shlex.quote('Dear')} --with {found.name}")


def _tell_head(trained: TrainedHead, *, as_json: bool) -> None:
    """The same for a draft head."""
    model = trained.manifest
    if as_json:
        facts = {"name": model.name, "core": model.core, "parameters": model.parameters, "right": list(trained.right)}
        console.write_json(facts | {"steps": trained.steps, "seconds": round(trained.seconds, 1)})
        return
    console.write(f"{model.name}: {trained.steps:,} steps in {trained.seconds / 60:.1f} minutes, {trained.folder}")
    if trained.right:
        shares = ", ".join(f"{share:.0%}" for share in trained.right)
        console.write(f"drafted tokens that are the likeliest of {model.core}, on held-out text: {shares}")
    console.note(f"Now try: ssd generate {shlex.quote('Once upon a time')} --core {model.core} --stats")


def _tell(trained: Trained | TrainedHead, *, as_json: bool) -> None:
    """Write the results to standard output: sentences, or one JSON object."""
    from ssdcli.training.job import Trained

    if not isinstance(trained, Trained):
        _tell_head(trained, as_json=as_json)
        return
    training, model = trained.description, trained.description.manifest
    if as_json:
        facts = {"name": model.name, "core": model.core, "size": training.size, "parameters": model.parameters}
        losses = {"weight": model.weight} | _losses(training.quality, model.measure)
        steps = {"steps": training.steps, "kept": training.kept, "seconds": round(training.seconds, 1)}
        console.write_json(facts | losses | steps | {"read": dict(training.read)})
        return
    console.write(f"{model.name}: {training.steps:,} steps in {training.seconds / 60:.1f} minutes, {trained.folder}")
    if training.kept is not None:
        console.write(f"kept the weights of step {training.kept:,}: after it, the held-out loss rose")
    for line in _figures(training.quality, model.measure):
        console.write(line)
    if model.core is None:
        console.note(f"Now try: ssd generate --core {model.name} {shlex.quote('Once upon a time')}")
        return
    best = "not measured, for lack of time or of held-out texts" if model.weight is None else f"{model.weight:g}"
    place = f"writes in the place of {model.core} unless a weight is named; " if model.tunes_core else ""
    console.write(f"{place}best weight beside {model.core}: {best}")
    if gate_of(model.joint_gates, PUBLIC_GATE.members) == PUBLIC_GATE:
        console.write("the memory joins by a gate of other people's notes: too little of this text was left to fit one")
    console.note(f"Now try: ssd generate {shlex.quote('Dear')} --with {model.name}")


def _losses(quality: Quality, measure: str) -> dict[str, object]:
    """What was measured, as JSON shows it; null for what is not finite."""
    gain = {
        "value": quality.gain,
        "low": quality.gain - quality.gain_margin,
        "high": quality.gain + quality.gain_margin,
    }
    return {
        "bits_per_byte": quality.bits_per_byte,
        "margins": _finite(quality.margins),
        "gain": _finite(gain) if math.isfinite(quality.gain) else None,
        "measure": measure,
        "documents": quality.documents,
    }


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _figures(quality: Quality, measure: str) -> Iterator[str]:
    """What was measured, as sentences."""
    from ssdcli.reports.description import interval

    bits = (f"{who} {interval(value, quality.margins[who])}" for who, value in quality.bits_per_byte.items())
    yield f"{measure} on held-out text, bits per byte: {', '.join(bits)}"
    if math.isfinite(quality.gain):
        gain = interval(quality.gain, quality.gain_margin, "+")
        yield f"gain of the ensemble over its best member, at weights that other documents chose: {gain}"
    if any(math.isfinite(margin) for margin in quality.margins.values()):
        yield f"intervals are 95% confidence intervals over {counted(quality.documents, 'document')}"
    else:
        yield f"measured on {counted(quality.documents, 'document')}, so without confidence intervals"
