"""`ssd recipes`: list, show and copy recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdcli.cli import console
from ssdcli.cli.completion import recipe_names
from ssdcli.errors import SsdError, UsageError
from ssdcli.registry.recipes import describe, find_recipe
from ssdcli.registry.recipes import recipe_names as all_recipe_names

Recipe = Annotated[str, typer.Argument(metavar="NAME", help="The recipe.", autocompletion=recipe_names)]

recipes = typer.Typer(help="List, show and copy the recipes: commented files of flags, one per job.")


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
