"""Options declared once: settings, their checks, and the flags of a command all come from a dataclass's fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from ssdcli.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STREAM = "-"  # standard input or output, in place of a file

_OPTION = "option"  # keys of a field's metadata
_FLAG = "flag"
_WITHOUT = "without"

Completes = Literal["", "core", "member", "beginning", "recipe"]


@dataclass(frozen=True)
class Check:
    """What a value must be.

    expected: completes the sentence "it must be", or says how.
    holds: tells whether a value is so.
    """

    expected: str | Callable[[], str]
    holds: Callable[[Any], bool]

    def __str__(self) -> str:
        return self.expected() if callable(self.expected) else self.expected


def at_least(least: float) -> Check:
    """A finite number of at least this."""
    return Check(f"at least {least:g}", lambda value: least <= value < math.inf)


def above(bound: float) -> Check:
    """A finite number above this."""
    return Check(f"above {bound:g}", lambda value: bound < value < math.inf)


def between(least: float, most: float) -> Check:
    """A number in a range that includes both ends."""
    return Check(f"between {least:g} and {most:g}", lambda value: least <= value <= most)


def multiple_of(factor: int) -> Check:
    """A positive multiple."""
    return Check(f"a multiple of {factor}", lambda value: value > 0 and value % factor == 0)


def one_of(choices: Sequence[str] | Callable[[], Sequence[str]]) -> Check:
    """One of several names; what they are may be asked only when a value is checked."""

    def names() -> Sequence[str]:
        return choices() if callable(choices) else choices

    return Check(lambda: f"one of {', '.join(names())}", lambda value: value in names())


def each(check: Check) -> Check:
    """Several values, all of which pass a check."""
    return Check(check.expected, lambda values: all(map(check.holds, values)))


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line, and what it must be.

    help: a sentence or two, without the default.
    check: what its value must be; None is allowed where it is the default.
    metavar: stands for the value in the help.
    default: how the help tells the default, if not by the field's own.
    common: whether the help lists it among the first options, not under "More".
    negatable: whether a switch has a second flag that begins with "no-".
    positional: whether it is an argument without a flag.
    completes: what a shell offers for its value.
    """

    help: str
    check: Check | None = None
    metavar: str | None = None
    default: str = ""
    common: bool = False
    negatable: bool = False
    positional: bool = False
    completes: Completes = ""


def option(value: Any, help: str, check: Check | None = None, /, *, flag: str = "", **told: Any) -> Any:
    """A field of a dataclass of settings: `steps: int = option(100, "Training steps.", at_least(1))`.

    value: its default. flag: its name on the command line, in variables and recipes, if not the field's. told: fields
    of `Option`.
    """
    named = {_FLAG: flag} if flag else {}
    return field(default=value, metadata={_OPTION: Option(help, check, **told), **named})


def group(default: Any, *, without: tuple[str, ...] = ()) -> Any:
    """A field that holds other settings, whose options count among those of the whole, but for those named."""
    return field(default=default, metadata={_WITHOUT: without})


def check_options(settings: DataclassInstance) -> None:
    """Raise UsageError, which names the flag, for the first value that is not what its field declares."""
    for member in fields(settings):
        check = declared(member).check
        value = getattr(settings, member.name)
        if check is None or (value is None and member.default is None):
            continue
        if not check.holds(value):
            flag = f"--{flag_of(member)}"
            raise UsageError(f"{flag} must be {check}, not {value!r}.", f"Change {flag}.")


def declared(member: Field[Any]) -> Option:
    """What a field declares, if only nothing."""
    found: Option = member.metadata.get(_OPTION, Option(""))
    return found


def flag_of(member: Field[Any]) -> str:
    """A field's flag without its dashes in front: `max-tokens`."""
    return str(member.metadata.get(_FLAG, member.name)).replace("_", "-")


def settings_of(cls: type[DataclassInstance]) -> dict[str, tuple[Field[Any], Any]]:
    """The fields of a dataclass of settings and of its groups, each with its type, by name.

    Of a group those count that declare an option. TypeError if two have the same name.
    """
    found: dict[str, tuple[Field[Any], Any]] = {}
    kinds = get_type_hints(cls)
    for member in fields(cls):
        if not member.init:
            continue
        kind = kinds[member.name]
        inner = _of_group(member, kind) if is_group(member) else {member.name: (member, kind)}
        if twice := found.keys() & inner.keys():
            raise TypeError(f"{cls.__name__} has two settings {min(twice)!r}")
        found |= inner
    return found


def is_group(member: Field[Any]) -> bool:
    """Whether a field holds other settings."""
    return _WITHOUT in member.metadata


def build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a dataclass of settings, with its groups, from values by the names of `settings_of`."""
    kinds = get_type_hints(cls)
    given: dict[str, Any] = {}
    for member in fields(cls):
        if is_group(member) and _of_group(member, kinds[member.name]).keys() & values.keys():
            given[member.name] = build(kinds[member.name], values)
        elif member.init and member.name in values:
            given[member.name] = values[member.name]
    return cls(**given)


def _of_group(member: Field[Any], kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    without = member.metadata[_WITHOUT]
    inner = settings_of(kind)
    return {name: (own, one) for name, (own, one) in inner.items() if name not in without and _OPTION in own.metadata}
