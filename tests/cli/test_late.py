"""Commands are imported when they are called, and are none the less all there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command

from ssdcli.cli.app import COMMANDS, app

LATE = {command.module for command in COMMANDS.values()}
WIDTH = 61  # of the list's lines in a terminal of 80 columns


def imported_commands(*arguments):
    """The modules of commands that a call imports."""
    script = (
        f"import sys; from ssdcli.cli.app import main; main({list(arguments)}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return LATE & set(done.stderr.split())


@pytest.mark.parametrize(("arguments", "expected"), [([], set()), (["models", "list"], {"ssdcli.cli.models"})])
def test_a_command_starts_without_the_others(arguments, expected):
    assert imported_commands(*arguments) == expected


def test_all_commands_of_the_table_can_be_called():
    commands = get_command(app).commands
    assert list(commands) == list(COMMANDS)
    assert len(commands) == len(COMMANDS)
    for name in COMMANDS:
        assert commands[name].name == name
        assert commands[name].help
        assert commands[name] is commands[name]
    assert "nothing" not in commands


def test_the_list_has_a_line_for_each(run_ssd):
    lines = run_ssd("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(len(command.help) <= WIDTH for command in COMMANDS.values())


def test_a_misspelled_command_is_told_what_is_near(run_ssd):
    done = run_ssd("modles")
    assert done.returncode == 2
    assert "models" in done.stderr
