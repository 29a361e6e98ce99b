"""How a person wants their files read: what is left out of them, and who in a chat they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssdcli.errors import UsageError
from ssdcli.registry.recipes import RECIPE, read_recipe


@dataclass(frozen=True)
class Reading:
    """What is decided before files are read.

    quotes: whether mails keep quoted replies and signatures.
    me: the names under which the person writes in chats; their messages are learned as answers.
    include: patterns, as in .gitignore, of what is read though it would be left out.
    """

    quotes: bool = False
    me: tuple[str, ...] = ()
    include: tuple[str, ...] = ()


AS_USUAL = Reading()


def recorded_reading(folder: Path) -> Reading:
    """How the text of a trained model was read, from the recipe in its folder; as usual if that does not tell."""
    try:
        written = read_recipe(folder / RECIPE)
    except UsageError:
        return AS_USUAL
    names = {key: written.get(key) for key in ("me", "include")}
    lists = {key: tuple(map(str, value)) for key, value in names.items() if isinstance(value, list)}
    return Reading(quotes=written.get("quotes") is True, **lists)
