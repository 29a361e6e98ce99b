"""`ssd train-small`: a small model from the user's own text."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ssdcli.cli import completion, console
from ssdcli.cli.help import MORE
from ssdcli.cli.progress import Screen, stoppable
from ssdcli.errors import UsageError
from ssdcli.machine import prepare_machine
from ssdcli.pipeline.saved import begin, resumed
from ssdcli.registry.recipes import find_recipe
from ssdcli.registry.store import Registry
from ssdcli.settings import resolve
from ssdcli.training.settings import TrainSettings

if TYPE_CHECKING:
    from ssdcli.pipeline.finish import Trained


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-small")(train_small)


def train_small(
    data: Annotated[list[str] | None, typer.Argument(help="Files and folders of text; - is standard input.")] = None,
    core: Annotated[
        str | None,
        typer.Option("--for", help="The core that it will write with.", autocompletion=completion.core_names),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The new model's name.")] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="nano, micro, mini, small or base; else data and time decide.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Time for everything, 10 by default.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Training steps, instead of minutes.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and noise.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of this name.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A recipe's name or file.", autocompletion=completion.recipe_names),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    base: Annotated[
        str | None,
        typer.Option(
            help="The small model before specialisation, for --rule contrast.",
            rich_help_panel=MORE,
            autocompletion=completion.member_names,
        ),
    ] = None,
    heldout: Annotated[
        float | None, typer.Option(help="Share of the text kept for measuring.", rich_help_panel=MORE)
    ] = None,
    gap_share: Annotated[
        float | None, typer.Option(help="Share of the text to train on with a gap to fill.", rich_help_panel=MORE)
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of a training step.", rich_help_panel=MORE)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=MORE)] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Decay of the matrices.", rich_help_panel=MORE)] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of rising rate.", rich_help_panel=MORE)] = None,
    decay: Annotated[float | None, typer.Option(help="Share of steps of falling rate.", rich_help_panel=MORE)] = None,
    hidden: Annotated[int | None, typer.Option(help="Width, instead of a size's.", rich_help_panel=MORE)] = None,
    layers: Annotated[int | None, typer.Option(help="Depth, instead of a size's.", rich_help_panel=MORE)] = None,
    context: Annotated[int | None, typer.Option(help="Tokens of a training window.", rich_help_panel=MORE)] = None,
    checkpoint_seconds: Annotated[
        float | None, typer.Option(help="Seconds between checkpoints.", rich_help_panel=MORE)
    ] = None,
    process: Annotated[
        str | None, typer.Option(help="simplex, masked or uniform; with --for none only.", rich_help_panel=MORE)
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Tokens of a block; with --for none only.", rich_help_panel=MORE)
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Tokens to learn; with --for none only.", rich_help_panel=MORE)
    ] = None,
) -> None:
    """Train a small model on your own text, on this machine, and register it."""
    flags = dict(locals())
    given = {field.name: flags[field.name] for field in fields(TrainSettings) if flags[field.name] not in (None, [])}
    settings = _settings(given, recipe, resume=resume, overwrite=overwrite)
    prepare_machine()
    from ssdcli.pipeline.job import train_small as run

    with stoppable() as stop, Screen(settings.name) as screen:
        trained = run(settings, screen.watcher(stop), overwrite=overwrite)
    _tell(trained, as_json=json)


def _settings(given: dict[str, object], recipe: str | None, *, resume: bool, overwrite: bool) -> TrainSettings:
    """What to train: the flags resolved, or a saved training with what may be changed."""
    if resume:
        if "name" not in given:
            raise UsageError("--resume does not say what to resume.", "Pass --name.")
        return resumed(Registry(), str(given["name"]), {k: v for k, v in given.items() if k != "name"})
    settings = resolve(TrainSettings, given, None if recipe is None else find_recipe(recipe))
    for budget, other in (("minutes", "steps"), ("steps", "minutes")):
        if budget in given and other not in given:  # a flag wins over the other kind of budget from elsewhere
            settings = replace(settings, **{other: None})  # type: ignore[arg-type]
    begin(Registry(), settings, overwrite=overwrite)
    return settings


def _tell(trained: Trained, *, as_json: bool) -> None:
    """What came out, on standard output: sentences, or one JSON object."""
    bits = trained.bits_per_byte()
    if as_json:
        facts = {"name": trained.name, "core": trained.core, "size": trained.size, "parameters": trained.parameters}
        losses = {"weight": trained.weight, "bits_per_byte": bits}
        console.write_json(facts | losses | {"steps": trained.steps, "seconds": round(trained.seconds, 1)})
        return
    figures = ", ".join(f"{who} {value:.3f}" for who, value in bits.items())
    console.write(f"{trained.name}: {trained.steps:,} steps in {trained.seconds / 60:.1f} minutes, {trained.folder}")
    console.write(f"denoising loss on held-out text, bits per byte: {figures}")
    if trained.weight is None:
        console.write(f"Now try: ssd generate --core {trained.name} {shlex.quote('Once upon a time')}")
    else:
        console.write(f"best weight beside {trained.core}: {trained.weight:g}")
        console.write(f"Now try: ssd generate {shlex.quote('Dear ')} --with {trained.name}")
