"""Options declared once: settings, their checks, and the flags of a command all come from a dataclass's fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_type_hints

from ssdcli.errors import UsageError
from ssdcli.options.checks import Check

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STREAM = "-"  # standard input or output, in place of a file

_OPTION = "option"  # keys of a field's metadata
_WITHOUT = "without"

Completes = Literal["", "core", "member", "beginning", "recipe"]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Option:
    """How a field is given on the command line, and what it must be.

    help: a sentence or two, without the default.
    check: what its value must be; None is allowed where it is the default.
    flag: its name on the command line, in variables and recipes, if not the field's.
    metavar: stands for the value in the help.
    default: the default as shown in the help, where it differs from the field's.
    common: whether the help lists it among the first options, not under "More".
    negatable: whether a switch has a second flag that begins with "no-".
    positional: whether it is an argument without a flag.
    completes: what a shell offers for its value.
    """

    help: str
    check: Check | None = None
    flag: str = ""
    metavar: str | None = None
    default: str = ""
    common: bool = False
    negatable: bool = False
    positional: bool = False
    completes: Completes = ""


@dataclass(frozen=True)
class ValueSource:
    """Where a value comes from, so that an error can quote it as it was written there.

    before: what precedes the value: `--top-p `, `SSD_TOP_P=`, `top-p = `, or in Python `top_p=`.
    spelled: how a value is written there.
    after: what follows it: ` in letters.toml`.
    """

    before: str
    spelled: Callable[[Any], str] = repr
    after: str = ""

    def refusal(self, value: object, expected: object, example: object) -> UsageError:
        """An error that quotes a value, says what it must be, and shows one that is right (None: there is none)."""
        problem = f"{self.before}{self.spelled(value)}{self.after} must be {expected}."
        remedy = "Omit it." if example is None else f"Write {self.before}{self.spelled(example)}, for example."
        return UsageError(problem, remedy)


class Shown(TypedDict, total=False):
    """The fields of `Option` that say how it is shown, as keywords of `option`."""

    flag: str
    metavar: str | None
    default: str
    common: bool
    negatable: bool
    positional: bool
    completes: Completes


def option(value: Value, help: str, check: Check | None = None, /, **shown: Unpack[Shown]) -> Value:
    """A field of a dataclass of settings: `steps: int = option(100, "Training steps.", at_least(1))`.

    value: its default; as with `dataclasses.field`, its type stands for the field's. shown: see `Option`.
    """
    made: Value = field(default=value, metadata={_OPTION: Option(help, check, **shown)})
    return made


def group(default: Value, *, without: tuple[str, ...] = ()) -> Value:
    """A field that holds other settings, whose options count among those of the whole, except those named."""
    made: Value = field(default=default, metadata={_WITHOUT: without})
    return made


def check_options(settings: DataclassInstance) -> None:
    """Raise a UsageError for the first value that fails its field's check."""
    for member in fields(settings):
        check_value(member, getattr(settings, member.name), ValueSource(f"{member.name}="))


def check_value(member: Field[Any], value: Any, source: ValueSource) -> None:
    """Raise a UsageError, which quotes the source, if a value fails the check of its field."""
    check = declared(member).check
    if check is None or (value is None and member.default is None):
        return
    for wrong in check.misfits(value):
        raise source.refusal(wrong, check, example(member, check.shown_example()))


def example(member: Field[Any], otherwise: object) -> object:
    """A right value for a field: its default, or another where it has none."""
    default = member.default
    return default if isinstance(default, (bool, int, float)) or (default and isinstance(default, str)) else otherwise


def declared(member: Field[Any]) -> Option:
    """A field's declaration (empty if it has none)."""
    found: Option = member.metadata.get(_OPTION, Option(""))
    return found


def flag_of(member: Field[Any]) -> str:
    """A field's flag without its dashes in front: `max-tokens`."""
    return (declared(member).flag or member.name).replace("_", "-")


def variable_of(member: Field[Any]) -> str:
    """The environment variable that sets a field: `SSD_MAX_TOKENS`."""
    return f"SSD_{flag_of(member).replace('-', '_').upper()}"


def settings_of(cls: type[DataclassInstance]) -> dict[str, tuple[Field[Any], Any]]:
    """The fields of a dataclass of settings and of its groups, each with its type, by name.

    Only a group's fields that declare an option are included. TypeError if two have the same name.
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
    """Make a dataclass of settings, with its groups, from values by the names of `settings_of`.

    A group keeps what its own default says of the settings that are not given.
    """
    return cls(**dict(_given(cls, values, {member.name: member.default for member in fields(cls)})))


def _given(cls: type[Any], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments of a dataclass of settings, of which only the groups need its defaults."""
    kinds = get_type_hints(cls)
    for member in fields(cls):
        if is_group(member):
            own = {name: values[name] for name in _of_group(member, kinds[member.name]) if name in values}
            held = defaults[member.name]
            if own:
                yield member.name, replace(held, **dict(_given(type(held), own, vars(held))))
        elif member.init and member.name in values:
            yield member.name, values[member.name]


def _of_group(member: Field[Any], kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    without = member.metadata[_WITHOUT]
    inner = settings_of(kind)
    kept = {name: it for name, it in inner.items() if name not in without and _OPTION in it[0].metadata}
    return {name: (_defaulting(own, member.default), one) for name, (own, one) in kept.items()}


def _defaulting(own: Field[Any], held: object) -> Field[Any]:
    """A field of a group with the default that the group has for it, so that the help says so."""
    value = getattr(held, own.name, own.default)
    if value == own.default:
        return own
    changed = copy(own)
    changed.default = value
    return changed
