"""Settings of a command: its flags, made from the fields of a dataclass, and values from four places.

A flag takes precedence over `SSD_*`, the variable over the recipe, and the recipe over the default.
"""

from __future__ import annotations

import inspect
import math
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo

from ssdcli.cli import completion
from ssdcli.cli.help import MORE
from ssdcli.errors import UsageError
from ssdcli.options.declare import (
    ValueSource,
    build,
    check_value,
    declared,
    example,
    flag_of,
    settings_of,
    variable_of,
)
from ssdcli.registry.recipes import load_recipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEANS |= {"0": False, "false": False, "no": False, "off": False}


class _Misfit(Exception):
    """A value that is not of the expected kind.

    expected: what it must be, in words.
    example: a value of that kind.
    """

    def __init__(self, expected: str, example: object) -> None:
        super().__init__(expected)
        self.expected = expected
        self.example = example


Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MORE,
        autocompletion=completion.recipe_names,
        help="A recipe's name, or a TOML file of settings.",
    ),
]


def with_flags(cls: type[DataclassInstance], command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer with a flag for every setting of `cls` besides its own parameters.

    The command gets the values as its argument `flags`, by the names of the settings; None means that a flag was not
    given.
    """
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]
    made = [_parameter(name, member, kind) for name, (member, kind) in settings_of(cls).items()]
    names = {parameter.name for parameter in made}

    @wraps(command)
    def run(**given: Any) -> None:
        flags = {name: given.pop(name) for name in names}
        command(**given, flags=flags)

    parameters = sorted([*made, *own], key=lambda parameter: not _is_positional(parameter))
    run.settings = cls  # type: ignore[attr-defined]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def resolve(cls: type[Settings], flags: Mapping[str, object], recipe: Path | None) -> Settings:
    """Make a frozen dataclass of settings from flags, `SSD_*` variables, a recipe and its defaults.

    A flag of None or of no elements was not given. UsageError quotes a wrong value as its source has it.
    """
    known = settings_of(cls)
    strangers = [name for name in flags if name not in known]
    if strangers:
        raise TypeError(f"{cls.__name__} has no setting {strangers[0]!r}")
    written = {} if recipe is None else _written(recipe, cls)
    values: dict[str, Any] = {}
    for name, (member, kind) in known.items():
        found = _given(member, flags.get(name), written, recipe)
        if found is not None:
            source, value = found
            values[name] = checked(source, value, member, kind)
        elif _is_required(member):
            raise UsageError(f"--{flag_of(member)} is needed.", f"Pass --{flag_of(member)}.")
    settings: Settings = build(cls, values)
    return settings


def given_flags(cls: type[DataclassInstance], flags: Mapping[str, object]) -> dict[str, object]:
    """The values of the flags that were given, by the names of their settings; errors as in `resolve`."""
    values = {}
    for name, (member, kind) in settings_of(cls).items():
        if flags.get(name) not in (None, [], ()):
            values[name] = checked(_flag_source(member), flags[name], member, kind)
    return values


def _written(recipe: Path, cls: type[DataclassInstance]) -> dict[str, object]:
    """A recipe's values; UsageError for a key that is no setting."""
    values = load_recipe(recipe)
    known = {flag_of(member).replace("-", "_") for member, _ in settings_of(cls).values()}
    stranger = next((key for key in values if key not in known), None)
    if stranger is not None:
        from ssdcli.cli.recipes import unknown_key  # which knows the other commands

        raise unknown_key(recipe, stranger, values, cls)
    return values


def _is_positional(parameter: inspect.Parameter) -> bool:
    return any(isinstance(told, ArgumentInfo) for told in get_args(parameter.annotation))


_COMPLETIONS: dict[str, Callable[[str], Any] | None] = {
    "": None,
    "core": completion.core_names,
    "member": completion.member_names,
    "beginning": completion.beginning_names,
    "recipe": completion.recipe_names,
}


def _parameter(name: str, member: Field[Any], kind: Any) -> inspect.Parameter:
    """A setting as a parameter of a command; None if it is not given."""
    told = declared(member)
    shown = told.default or _default_in_help(member.default)
    help = f"{told.help} [default: {shown}]" if shown else told.help
    if told.positional:
        info: Any = typer.Argument(metavar=told.metavar, help=help)
    else:
        flag = flag_of(member)
        info = typer.Option(
            f"--{flag}/--no-{flag}" if told.negatable else f"--{flag}",
            metavar=told.metavar,
            help=help,
            rich_help_panel=None if told.common else MORE,
            autocompletion=_COMPLETIONS[told.completes],
        )
    annotation: Any = Annotated[_given_kind(kind) | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _given_kind(kind: Any) -> Any:
    """The type that Typer gives a value: the first of a union, for a tuple a list, and text for a number.

    Typer would refuse what is no number with a sentence of its own; `convert` quotes it as from any other source.
    """
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _given_kind(next(one for one in get_args(kind) if one is not NoneType))
    if origin is tuple:
        return list[_given_kind(get_args(kind)[0])]  # type: ignore[misc]
    return str if origin is Literal or kind in (int, float) else kind


def _default_in_help(default: object) -> str:
    """A default as a user would write it; nothing for one that is off, empty or None."""
    if default is MISSING or default is None or isinstance(default, bool) or default in ("", ()):
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def _given(
    member: Field[Any], given: object, written: Mapping[str, object], recipe: Path | None
) -> tuple[ValueSource, object] | None:
    """The source and the value of the first place that gives this setting; None if none does."""
    flag, variable = flag_of(member), variable_of(member)
    if given not in (None, [], ()):
        return _flag_source(member), given
    if os.environ.get(variable):
        return ValueSource(f"{variable}=", _in_shell), os.environ[variable]
    if flag.replace("-", "_") in written:
        return recipe_source(member, recipe), written[flag.replace("-", "_")]
    return None


def _flag_source(member: Field[Any]) -> ValueSource:
    """Where a flag or an argument gives a setting."""
    option = declared(member)
    return ValueSource(f"{option.metavar} " if option.positional else f"--{flag_of(member)} ", _in_shell)


def recipe_source(member: Field[Any], recipe: Path | None) -> ValueSource:
    """Where a recipe gives a setting."""
    return ValueSource(f"{flag_of(member)} = ", _in_toml, f" in {recipe}")


def checked(source: ValueSource, value: object, member: Field[Any], kind: Any) -> object:
    """A value as its setting has it; UsageError, which quotes the source, if it is of another kind or out of bounds."""
    try:
        converted = convert(value, kind)
    except _Misfit as misfit:
        raise source.refusal(value, misfit.expected, example(member, misfit.example)) from None
    check_value(member, converted, source)
    return converted


def convert(value: object, kind: Any) -> object:
    """The value as the annotation says, or raise _Misfit."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _first_fit(value, [one for one in get_args(kind) if one is not NoneType])
    if origin is Literal:
        if value not in get_args(kind):
            raise _Misfit(f"one of {', '.join(map(str, get_args(kind)))}", get_args(kind)[0])
        return value
    if origin is tuple:
        return tuple(convert(item, get_args(kind)[0]) for item in _items(value))
    return _SCALARS[kind](value)


def _first_fit(value: object, kinds: list[Any]) -> object:
    misfits = []
    for kind in kinds:
        try:
            return convert(value, kind)
        except _Misfit as misfit:
            misfits.append(misfit)
    raise _Misfit(" or ".join(misfit.expected for misfit in misfits), misfits[0].example)


def _items(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return list(value)
    # Variables have no lists of their own, so commas separate the elements.
    return [item.strip() for item in value.split(",")] if isinstance(value, str) else [value]


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    raise _Misfit("true or false", True)


def _whole(value: object) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except ValueError:
            pass
    raise _Misfit("a whole number", 1)


def _number(value: object) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    raise _Misfit("a number", 1)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise _Misfit("text", "text")


def _path(value: object) -> Path:
    if isinstance(value, (str, Path)):
        return Path(value).expanduser()
    raise _Misfit("a path", "file.txt")


_SCALARS: dict[Any, Callable[[object], object]] = {
    bool: _boolean,
    int: _whole,
    float: _number,
    str: _text,
    Path: _path,
}


def _is_required(member: Field[Any]) -> bool:
    return member.default is MISSING and member.default_factory is MISSING


def _in_shell(value: object) -> str:
    """A value as a command line or a variable has it, quoted where the shell needs that."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return shlex.quote(text.lower() if isinstance(value, bool) else text)


def _in_toml(value: object) -> str:
    """A value as a recipe has it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)
