"""`ssd recipes`: list, show, copy and check recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import recipe_names
from ssdcli.cli.recipe_check import check_recipe
from ssdcli.errors import SsdError, UsageError
from ssdcli.machine.units import counted
from ssdcli.registry.recipes import describe, find_recipe
from ssdcli.registry.recipes import recipe_names as all_recipe_names

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
