"""docs/reference.md, made from the commands themselves: `python -m ssdcli.cli.reference > docs/reference.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field
from typing import Any

from typer.main import get_command

from ssdcli import errors
from ssdcli.cli import app as entry
from ssdcli.cli.help import MORE
from ssdcli.engine import catalogue
from ssdcli.engine.catalogue import Declaration
from ssdcli.options import declare

_HEAD = """\
# Reference

<!-- Made by `make reference`; do not edit. -->

Every command, argument and option. `ssd COMMAND --help` shows the same in the terminal.

- **Precedence.** An option takes precedence over its environment variable, the variable over a recipe (`--recipe`), and
  the recipe over the default.
- **Recipes.** The keys of a recipe are the names of the options that have a variable, without the leading dashes:
  `max-tokens = 64`.
- **Lists.** A variable takes the values of a repeatable option separated by commas: `SSD_WITH=notes,mail`.
- **Global options** `--quiet` and `--debug` may stand anywhere before `--`.
"""

_ENVIRONMENT = (
    ("`SSD_HOME`", "The folder of models, trainings and your own recipes; by default the platform's user data folder."),
    ("`SSD_OFFLINE`", "`1`: never use the network; `ssd pull` takes what the hub's cache holds."),
    ("`SSD_CORE_TOKEN`", "The bearer token for cores on other machines."),
    ("`NO_COLOR`", "Set to anything: no colour."),
    ("`HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`", "As in huggingface_hub; `ssd pull` obeys them."),
)
_PLACEHOLDERS = {"<str>": "TEXT", "<int>": "N", "<float>": "X", "<path>": "PATH"}
_FIRST = "The first of each table is the default, but each process has a default schedule of its own."
_SUCCESS = "Done."
_FAILURE = "Any other failure."
_CLOSED_PIPE = "The reader of standard output closed the pipe, as `head -1` does."


def reference() -> str:
    """The whole page, as Markdown."""
    root = get_command(entry.app)
    commands = list(_commands(root, "ssd"))
    contents = [f"- [`{path}`](#{path.replace(' ', '-')}): {_first_line(command)}" for path, command in commands]
    parts = [_HEAD, "## Commands\n", "\n".join(contents) + "\n", "## Global options\n", _globals(root)]
    parts += [part for path, command in commands for part in _section(path, command)]
    return "\n".join([*parts, _declared(), _exit_codes(), _environment()])


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it, in the order of the help."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _section(path: str, command: Any) -> Iterator[str]:
    """A command: its usage, what it does, and a table for each panel of its help."""
    context = command.make_context(path, [], resilient_parsing=True)
    yield f"## {path}\n\n```\n{path} {_usage(command)}\n```\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    settings = settings_of(command)
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        if not getattr(param, "hidden", False):
            panels.setdefault(_panel(param), []).append(param)
    for title in sorted(panels, key=lambda title: title == MORE):
        yield f"### {title}\n"
        has_variables = any(param.name in settings for param in panels[title] if param.name)
        yield _table([_row(param, context, settings) for param in panels[title]], has_variables)


def _globals(root: Any) -> str:
    context = root.make_context("ssd", [], resilient_parsing=True)
    return _table([_row(param, context, {}) for param in root.params if not getattr(param, "hidden", False)], False)


def _usage(command: Any) -> str:
    """`NAME [DATA]... [OPTIONS]`: what must be given, what may be, and what may be given more than once."""
    pieces = []
    for param in command.params:
        if param.param_type_name == "argument":
            word = param.metavar or str(param.name).upper()
            pieces.append((word if param.required else f"[{word}]") + "..." * (param.nargs != 1))
    return " ".join([*pieces, "[OPTIONS]"])


def settings_of(command: Any) -> dict[str, Field[Any]]:
    """The parameters that variables and recipes can set, by name: the fields that declare them."""
    callback = command.callback
    while hasattr(callback, "__wrapped__") and not hasattr(callback, "settings"):
        callback = callback.__wrapped__
    cls = getattr(callback, "settings", None)
    return {} if cls is None else {name: member for name, (member, _) in declare.settings_of(cls).items()}


def _row(param: Any, context: Any, settings: dict[str, Field[Any]]) -> tuple[str, str, str, str]:
    """Spelling, meaning, default and variable of one parameter."""
    member = settings.get(param.name)
    if member is None:
        meaning, shown, variable = param.help or "", _value(param.default), ""
    else:
        told = declare.declared(member)
        meaning, shown = told.help, told.default or _value(member.default)
        variable = f"`{declare.variable_of(member)}`"
    if param.multiple and "repeatable" not in meaning.lower():
        meaning = f"{meaning} Repeatable."
    return _spelling(param, context), meaning, shown, variable


def _value(default: object) -> str:
    """A default as it would be written; nothing for one that is unset or off."""
    if (
        default is MISSING
        or default is None
        or default is False
        or (isinstance(default, (str, list, tuple)) and not default)
    ):
        return ""
    if default is True:
        return "on"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _spelling(param: Any, context: Any) -> str:
    """How a parameter is written, as in the help, with a placeholder where the help names a Python type."""
    if param.param_type_name == "argument":
        return f"`{param.metavar or str(param.name).upper()}`"
    if param.is_flag:
        return ", ".join(f"`{word}`" for word in (*param.opts, *param.secondary_opts))
    words, _ = param.get_help_record(context)
    for kind, placeholder in _PLACEHOLDERS.items():
        words = words.replace(kind, placeholder)
    return f"`{words}`"


def _panel(param: Any) -> str:
    own = getattr(param, "rich_help_panel", None)
    return own or ("Arguments" if param.param_type_name == "argument" else "Options")


def _table(rows: Sequence[tuple[str, str, str, str]], has_variables: bool) -> str:
    head = ("", "meaning", "default", "variable")
    keep = [0, 1, *([2] if any(row[2] for row in rows) else []), *([3] if has_variables else [])]
    lines = [" | ".join(head[k] for k in keep), " | ".join("---" for _ in keep)]
    lines += [" | ".join(row[k].replace("|", "\\|") for k in keep) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def _declared() -> str:
    """What can be chosen by name, a table for each kind; the samplers by the process that they reverse."""
    kinds: list[tuple[str, Sequence[Declaration]]] = [("Processes", catalogue.PROCESSES)]
    kinds += [(f"Samplers of the {one.name} process", catalogue.samplers(one.name)) for one in catalogue.PROCESSES]
    kinds += [("Rules", catalogue.RULES), ("Schedules", catalogue.SCHEDULES)]
    tables = (f"### {title}\n\n{_choices(declared)}" for title, declared in kinds)
    return f"## Processes, samplers, rules, schedules\n\n{_FIRST}\n\n" + "\n".join(tables)


def _choices(declared: Sequence[Declaration]) -> str:
    rows = "".join(f"| `{catalogue.written(one)}` | {one.help}{_number(one)} |\n" for one in declared)
    return f"| | meaning |\n| --- | --- |\n{rows}"


def _number(one: Declaration) -> str:
    """The bounds and the default of the number that may follow a name."""
    number = getattr(one, "number", None)
    if number is None:
        return ""
    default = "as the checkpoint was published" if number.default is None else f"{number.default:g}"
    return f"; {number.symbol} is {number.check}, by default {default}"


def _exit_codes() -> str:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SsdError)]
    codes = {kind.exit_code: _first_line(kind) for kind in kinds if kind is not errors.SsdError}
    codes |= {0: _SUCCESS, errors.SsdError.exit_code: _FAILURE, entry.CLOSED_PIPE: _CLOSED_PIPE}
    rows = "".join(f"| {code} | {meaning} |\n" for code, meaning in sorted(codes.items()))
    return f"## Exit codes\n\n| code | meaning |\n| --- | --- |\n{rows}"


def _environment() -> str:
    rows = "".join(f"| {names} | {meaning} |\n" for names, meaning in _ENVIRONMENT)
    return f"## Environment\n\nBesides the variables of the options:\n\n| variable | meaning |\n| --- | --- |\n{rows}"


def _first_line(thing: Any) -> str:
    text = getattr(thing, "help", None) or thing.__doc__ or ""
    return inspect.cleandoc(text).splitlines()[0]


if __name__ == "__main__":
    sys.stdout.write(reference().rstrip("\n") + "\n")
