"""Settings from four places: a flag wins over `SSD_*`, that over the recipe, and that over the default."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ssdcli.errors import UsageError
from ssdcli.registry.recipes import load_recipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "off": False}


class _Misfit(Exception):
    """A value that is not of the expected kind; the message names that kind."""


def resolve(cls: type[Settings], flags: Mapping[str, object], recipe: Path | None) -> Settings:
    """Make the frozen dataclass `cls` of settings from flags, `SSD_*` variables, a recipe and its defaults.

    A field whose flag has another name carries it as the metadata "flag". A flag of None or of no elements was not
    given. UsageError names the source of a value that is not right.
    """
    members = [member for member in fields(cls) if member.init]
    names = [member.name for member in members]
    strangers = [name for name in flags if name not in names]
    if strangers:
        raise TypeError(f"{cls.__name__} has no setting {strangers[0]!r}")
    flag_of = {member.name: str(member.metadata.get("flag", member.name)) for member in members}
    written = {} if recipe is None else load_recipe(recipe, flag_of.values())
    kinds = get_type_hints(cls)
    values: dict[str, Any] = {}
    for member in members:
        found = _given(flag_of[member.name], flags.get(member.name), written, recipe)
        if found is not None:
            values[member.name] = _converted(found, kinds[member.name])
        elif _is_required(member):
            flag = _flag(flag_of[member.name])
            raise UsageError(f"{flag} is needed.", f"Pass {flag}.")
    return cls(**values)


def _given(name: str, given: object, written: Mapping[str, object], recipe: Path | None) -> tuple[str, object] | None:
    """Return the source, as errors name it, and the value of the first place that gives this setting."""
    if given not in (None, [], ()):
        return f"{_flag(name)} {_shown(given)}", given
    variable = f"SSD_{name.upper()}"
    if os.environ.get(variable):
        return f"{variable}={os.environ[variable]!r}", os.environ[variable]
    if name in written:
        return f"{name.replace('_', '-')} = {_shown(written[name])} in {recipe}", written[name]
    return None


def _converted(found: tuple[str, object], kind: Any) -> object:
    source, value = found
    try:
        return _convert(value, kind)
    except _Misfit as misfit:
        raise UsageError(f"{source} is not {misfit}.", f"Give {misfit}.") from None


def _convert(value: object, kind: Any) -> object:
    """Return the value as the annotation says, or raise _Misfit."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _first_fit(value, [one for one in get_args(kind) if one is not NoneType])
    if origin is Literal:
        if value not in get_args(kind):
            raise _Misfit(f"one of {', '.join(map(str, get_args(kind)))}")
        return value
    if origin is tuple:
        return tuple(_convert(item, get_args(kind)[0]) for item in _items(value))
    return _SCALARS[kind](value)


def _first_fit(value: object, kinds: list[Any]) -> object:
    misfits = []
    for kind in kinds:
        try:
            return _convert(value, kind)
        except _Misfit as misfit:
            misfits.append(str(misfit))
    raise _Misfit(" or ".join(misfits))


def _items(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return list(value)
    # Variables have no lists of their own, so a comma parts the elements.
    return [item.strip() for item in value.split(",")] if isinstance(value, str) else [value]


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise _Misfit("true or false")


def _whole(value: object) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except ValueError:
            pass
    raise _Misfit("a whole number")


def _number(value: object) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise _Misfit("a number")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _Misfit("text")


def _path(value: object) -> Path:
    if isinstance(value, (str, Path)):
        return Path(value).expanduser()
    raise _Misfit("a path")


_SCALARS: dict[Any, Callable[[object], object]] = {
    bool: _boolean,
    int: _whole,
    float: _number,
    str: _text,
    Path: _path,
}


def _is_required(member: Field[Any]) -> bool:
    return member.default is MISSING and member.default_factory is MISSING


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
