"""The commands' classes: plain help in panels, and a fast start.

An option is listed under its `rich_help_panel`, as Typer does with rich, in half of rich's start-up time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

MORE = "More"


class PanelCommand(TyperCommand):
    """A command that starts fast and whose help has one section per panel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, without needless conversions."""
        _spare_conversions(self.get_params(ctx), ctx.resilient_parsing)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections in the order in which their first option was declared, `More` last."""
        _write_panels(self.get_params(ctx), ctx, formatter)


class PanelGroup(TyperGroup):
    """A group of commands that starts fast and whose help has one section per panel."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, without needless conversions."""
        _spare_conversions(self.get_params(ctx), ctx.resilient_parsing)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands first: they are what a reader of a group's help looks for."""
        self.format_commands(ctx, formatter)
        _write_panels(self.get_params(ctx), ctx, formatter)


def use_panels(app: typer.Typer) -> None:
    """Give every command below this app the help in panels."""
    for command in app.registered_commands:
        command.cls = PanelCommand
    for group in app.registered_groups:
        group.cls = PanelGroup
        if group.typer_instance is not None:
            use_panels(group.typer_instance)


def _spare_conversions(params: Any, completing: bool) -> None:
    """Keep Typer from importing pydantic to convert nothing, which would double the time of a start."""
    for param in params:
        if completing:  # the shell needs what was given, not what it is converted to
            param.process_value = _as_given
            continue
        if getattr(param, "is_flag", False) and not param.expose_value and param.default is None:
            param.default = False  # --help and others: None would be converted, a boolean is not
        if not param.required and param.callback is None:
            param.process_value = partial(_spared, param, param.process_value)


def _spared(param: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    """What a parameter is given, converted only if it is neither missing nor text that stays text."""
    several = param.multiple or param.nargs == -1
    if value is None:
        return () if several else None
    kind = param.type_descriptor.annotation
    texts = list(value) if several else [value]
    if kind in (str, list[str]) and all(isinstance(text, str) for text in texts):
        return texts if several else value
    return convert(context, value)


def _as_given(_: Any, value: Any) -> Any:
    return value


def _write_panels(params: Any, ctx: Any, formatter: Any) -> None:
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in params:
        record = param.get_help_record(ctx)
        if record is not None:
            panels.setdefault(_panel(param), []).append(record)
    for title in sorted(panels, key=lambda title: title == MORE):
        with formatter.section(title):
            formatter.write_dl(panels[title])


def _panel(param: Any) -> str:
    own = getattr(param, "rich_help_panel", None)  # the option --help has none
    return own or ("Arguments" if param.param_type_name == "argument" else "Options")


@dataclass(frozen=True)
class LateCommand:
    """A command, or a group of commands, that was not imported.

    module: its file, whose `register` adds it to an app.
    help: what it does, in a line, as in the list of commands.
    """

    module: str
    help: str


class LateCommands(Mapping[str, Any]):
    """The commands of a table by their names, imported when they are first looked at."""

    def __init__(self, table: Mapping[str, LateCommand]) -> None:
        """For a table by name."""
        self._table = table
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Import a command; KeyError for a name that is not in the table."""
        if name not in self._loaded:
            app = typer.Typer(cls=PanelGroup, rich_markup_mode=None)
            import_module(self._table[name].module).register(app)
            use_panels(app)
            self._loaded[name] = get_group(app).commands[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class LateGroup(PanelGroup):
    """A group of commands that are imported when they are called; subclasses have the table."""

    table: Mapping[str, LateCommand]

    def __init__(self, **told: Any) -> None:
        """As Typer makes it."""
        super().__init__(**told)
        self.commands: Any = LateCommands(self.table)

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the table."""
        return list(self.table)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, late.help) for name, late in self.table.items()])
