"""Commands that are imported when they are called: `ssd --help` and each command start without the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.main import get_group

from ssdcli.cli.help import PanelGroup, use_panels


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
