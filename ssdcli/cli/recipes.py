"""`ssd recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import recipe_names
from ssdcli.cli.flags import checked, recipe_source
from ssdcli.errors import SsdError, UsageError
from ssdcli.machine.units import counted
from ssdcli.options.declare import build, flag_of, settings_of
from ssdcli.registry.names import suggest
from ssdcli.registry.recipes import describe, find_recipe, recipe_values
from ssdcli.registry.recipes import recipe_names as all_recipe_names

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class CheckedRecipe:
    """What was found in a recipe.

    path: its file.
    command: the command that its first line runs, else the one that knows most of its keys; None for a file that
        cannot be read as a recipe.
    problems: what is wrong with it for that command.
    valid_for: the commands that can use it.
    """

    path: Path
    command: str | None
    problems: tuple[UsageError, ...]
    valid_for: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd recipes check --json` writes."""
        problems = [{"problem": one.problem, "remedy": one.remedy} for one in self.problems]
        found = {"recipe": str(self.path), "valid": not problems, "command": self.command}
        return found | {"valid_for": list(self.valid_for), "problems": problems}


def recipe_commands() -> dict[str, type[DataclassInstance]]:
    """The settings of each command that takes a recipe, by the command's name."""
    from typer.main import get_command

    from ssdcli.cli.app import app

    root: Any = get_command(app)
    callbacks = {name: command.callback for name, command in root.commands.items()}
    takers = {name: getattr(run, "settings", None) for name, run in callbacks.items() if _takes_recipe(run)}
    return {name: settings for name, settings in takers.items() if settings is not None}


def _takes_recipe(run: object) -> bool:
    return "recipe" in getattr(run, "__annotations__", {})


def check_recipe(path: Path) -> CheckedRecipe:
    """Check a recipe for every command that takes one."""
    try:
        values, misshapen = recipe_values(path)
    except UsageError as error:
        return CheckedRecipe(path, None, (error,), ())
    found = {name: (*misshapen, *_problems(path, values, settings)) for name, settings in recipe_commands().items()}
    command = _command(path, values)
    return CheckedRecipe(path, command, found[command], tuple(name for name, wrong in found.items() if not wrong))


def _command(path: Path, values: Mapping[str, object]) -> str:
    """The command that a recipe is meant for."""
    commands = recipe_commands()
    try:
        words = shlex.split(describe(path)[0])
    except ValueError:  # an open quotation
        words = []
    if words[:1] == ["ssd"] and words[1:2] and words[1] in commands:
        return words[1]
    return max(commands, key=lambda name: len(values.keys() & _keys(commands[name])))


def _keys(settings: type[DataclassInstance]) -> set[str]:
    """The keys that a recipe may have for these settings, with underscores."""
    return {flag_of(member).replace("-", "_") for member, _ in settings_of(settings).values()}


def _problems(path: Path, values: Mapping[str, object], settings: type[DataclassInstance]) -> Iterator[UsageError]:
    """What is wrong with a recipe's values for a command: key by key, and if nothing is, all of them together."""
    known = {
        flag_of(member).replace("-", "_"): (name, member, kind)
        for name, (member, kind) in settings_of(settings).items()
    }
    taken, right = {}, True
    for key, value in values.items():
        try:
            if key not in known:
                raise unknown_key(path, key, values, settings)
            name, member, kind = known[key]
            taken[name] = checked(recipe_source(member, path), value, member, kind)
        except UsageError as error:
            right = False
            yield error
    if right:
        try:
            made = build(settings, taken)
            if hasattr(made, "check_together"):
                made.check_together()
        except UsageError as error:
            yield error


def unknown_key(path: Path, key: str, values: Mapping[str, object], settings: type[DataclassInstance]) -> UsageError:
    """The error for a key that a command does not know: of a recipe for another command, or mistyped."""
    written, commands = key.replace("_", "-"), recipe_commands()
    own = next((f"'ssd {name}'" for name, one in commands.items() if one is settings), "this command")
    others = [f"'ssd {name}'" for name, one in commands.items() if values.keys() <= _keys(one)]
    problem = f"{path} has a key {written!r} that {own} does not know"
    known = sorted(key.replace("_", "-") for key in _keys(settings))
    if nearest := suggest(written, known):
        return UsageError(f"{problem}.", nearest)
    if others:
        remedy = "Name another recipe; 'ssd recipes list' says what each is for."
        return UsageError(f"{problem}: it is a recipe for {' and '.join(others)}.", remedy)
    return UsageError(f"{problem}.", f"Choose from {', '.join(known)}.")


Recipe = Annotated[str, typer.Argument(metavar="NAME", help="The recipe.", autocompletion=recipe_names)]

recipes = typer.Typer(help="List, show, copy and check recipes: commented files of flags, one per job.")


def register(app: typer.Typer) -> None:
    """Add `ssd recipes` to the app."""
    app.add_typer(recipes, name="recipes")


@recipes.command("list")
def list_recipes() -> None:
    """List the recipes and what each is for."""
    names = all_recipe_names()
    console.write_table([("NAME", "FOR"), *((name, describe(find_recipe(name))[1]) for name in names)])


@recipes.command()
def show(name: Recipe) -> None:
    """Write a recipe to standard output."""
    console.write(find_recipe(name).read_text(encoding="utf-8"), end="")


@recipes.command()
def check(
    name: Annotated[str, typer.Argument(metavar="FILE", help="A recipe's file or name.", autocompletion=recipe_names)],
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> None:
    """Check a recipe's keys and values, and say which commands can use it; code 2 if something is wrong."""
    found = check_recipe(find_recipe(name))
    if as_json:
        console.write_json(found.to_json())
    elif found.problems:
        console.write("\n".join(str(problem) for problem in found.problems))
    else:
        console.write(f"{found.path} is valid for {', '.join(f'ssd {command}' for command in found.valid_for)}")
    if found.problems:
        whose = "" if found.command is None else f" for 'ssd {found.command}'"
        raise UsageError(
            f"{found.path} is not valid{whose}.", f"Correct {counted(len(found.problems), 'error')} in it."
        )


@recipes.command()
def copy(
    name: Recipe,
    destination: Annotated[
        Path | None, typer.Argument(metavar="DEST", help="A file or a folder; by default this folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Copy a recipe, to edit it, and print the copy's path."""
    source = find_recipe(name)
    target = destination or Path()
    if target.is_dir():
        target /= source.name
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists already.", "Pass --overwrite to replace it, or name another file.")
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise SsdError(f"the recipe cannot be copied to {target} ({error.strerror}).", "Name another place.") from None
    console.write(str(target))
