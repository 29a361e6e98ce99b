"""What is wrong with a recipe, and which commands can use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdcli.cli.flags import checked, recipe_source
from ssdcli.errors import UsageError
from ssdcli.options.declare import build, flag_of, settings_of
from ssdcli.registry.names import suggest
from ssdcli.registry.recipes import describe, recipe_values

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
