"""Recipes: flat TOML files of flags, the ones that come with ssd and the user's own.

The first line of a recipe is a comment with the command that runs it, the second says what it is for.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from ssdcli.errors import UsageError
from ssdcli.registry.names import check_name, suggest
from ssdcli.registry.schema import REMOVED_SETTINGS
from ssdcli.registry.store import home

RECIPE = "recipe.toml"  # in the folder of a trained model, the one that it was trained by

_PACKAGE = Path(__file__).parents[1]


def recipe_names() -> list[str]:
    """The names of all recipes; a user's own hides the bundled one of the same name."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given by name or, with `.toml` or a folder in it, by path."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise UsageError(f"there is no recipe file {name_or_path!r}.", "See 'ssd recipes list'.")
    check_name(name_or_path)
    for folder in _folders():
        if (folder / f"{name_or_path}.toml").is_file():
            return folder / f"{name_or_path}.toml"
    remedy = f"{suggest(name_or_path, recipe_names())} See 'ssd recipes list'."
    raise UsageError(f"no recipe named {name_or_path!r}.", remedy.strip())


def load_recipe(path: Path) -> dict[str, object]:
    """A recipe's values by setting name; UsageError for the first thing in the file that cannot be right."""
    values, wrong = recipe_values(path)
    if wrong:
        raise wrong[0]
    return values


def recipe_values(path: Path) -> tuple[dict[str, object], list[UsageError]]:
    """A recipe's values by setting name (`learning-rate` becomes `learning_rate`), and what is no such value.

    A key that only earlier versions knew is ignored. The errors are for tables, and for keys that are given twice.
    Raises UsageError for a file that is not TOML.
    """
    values: dict[str, object] = {}
    wrong = []
    for written, value in read_recipe(path).items():
        key = written.replace("-", "_")
        if key in REMOVED_SETTINGS:
            continue
        if isinstance(value, dict):
            problem = f"{path} has a table [{written}], but a recipe is flat."
            wrong.append(UsageError(problem, "Write 'key = value' lines."))
        elif key in values:
            problem = f"{path} gives {written.replace('_', '-')!r} twice."
            wrong.append(UsageError(problem, "Remove one of the two."))
        else:
            values[key] = value
    return values, wrong


def describe(path: Path) -> tuple[str, str]:
    """The command that runs a recipe and what it is for, from its first two comment lines."""
    lines = [*_read(path).splitlines()[:2], "", ""]
    command, purpose = (line.removeprefix("#").strip() if line.startswith("#") else "" for line in lines[:2])
    return command, purpose


def own_recipes() -> Path:
    """The folder of the user's own recipes, which need not exist."""
    return home() / "recipes"


def _folders() -> list[Path]:
    # A wheel carries the recipes inside the package; a checkout has them beside it.
    shipped = _PACKAGE / "recipes"
    return [own_recipes(), shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"]


def read_recipe(path: Path) -> dict[str, object]:
    """A recipe's keys and values as they are written; UsageError for a file that is not TOML."""
    try:
        return tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.", "Correct that line.") from None


def _read(path: Path) -> str:
    from ssdcli.machine.encodings import decode_bytes  # its tables take longer to make than the help

    try:
        return decode_bytes(path.read_bytes()).text  # Notepad writes a mark, or UTF-16
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read ({error}).", "Give a readable text file.") from None
