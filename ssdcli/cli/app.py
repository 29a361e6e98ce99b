"""The command `ssd`: its subcommands and global flags; every failure becomes one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from ssdcli import __version__
from ssdcli.cli import console
from ssdcli.cli.help import LateCommand, LateGroup
from ssdcli.errors import Interrupted, OutOfMemory, SsdError, is_out_of_memory
from ssdcli.machine.distributed import is_rank_zero

CLOSED_PIPE = 141  # what a shell reports for a command that SIGPIPE ended
_GLOBAL_FLAGS = ("--debug", "--quiet", "-q")


COMMANDS = {
    "generate": LateCommand("ssdcli.cli.generate", "Write text with a core, small models, or both together."),
    "chat": LateCommand("ssdcli.cli.chat", "Talk with a core, with small models, or with both together."),
    "train-small": LateCommand("ssdcli.cli.train", "Train a small model on your own text, on this machine."),
    "pull": LateCommand("ssdcli.cli.pull", "Register a checkpoint as a core."),
    "serve": LateCommand("ssdcli.cli.serve", "Answer calls of OpenAI's API with your models."),
    "eval": LateCommand("ssdcli.cli.evaluate", "Measure how well models predict held-out text."),
    "audit": LateCommand("ssdcli.cli.audit", "Measure how much of its training text a model reveals."),
    "doctor": LateCommand("ssdcli.cli.doctor", "Show what this machine has, and which cores fit."),
    "demo": LateCommand("ssdcli.cli.demo", "Train on a bundled notebook, and compare the models."),
    "models": LateCommand("ssdcli.cli.models", "List, show, rename, remove, verify, export and import models."),
    "recipes": LateCommand("ssdcli.cli.recipes", "List, show, copy and check recipes: flags worth keeping."),
}


class SsdGroup(LateGroup):
    """The commands of `ssd`."""

    table = COMMANDS


app = typer.Typer(
    name="ssd",
    cls=SsdGroup,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def ssd(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write only warnings and errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train small diffusion language models on your own text and let them write with a large one."""
    console.configure(quiet=quiet, debug=debug)
    if version:
        console.write(f"ssd {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ssd` with these arguments (the process's own by default) and return the exit code."""
    if not console.open_streams():
        console.fail("standard output is closed. Redirect it to a file or to /dev/null.")
        return SsdError.exit_code
    if not is_rank_zero():
        console.abandon_streams()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        console.abandon_streams()
        return CLOSED_PIPE
    except OSError as error:  # a full disk, for one
        console.fail(f"standard output cannot be written ({error.strerror}). Make room, or write elsewhere.", error)
        console.abandon_streams()
        return SsdError.exit_code
    return code


def _run(arguments: list[str]) -> int:
    try:
        code = get_command(app).main(args=_hoisted(arguments), prog_name="ssd", standalone_mode=False)
    except SystemExit as ending:
        # Typer answers a closed pipe with code 1, which would look like a failure.
        if isinstance(ending.__context__, BrokenPipeError):
            raise ending.__context__ from None
        raise
    except (BrokenPipeError, console.Unwritable):
        raise
    except (Exception, KeyboardInterrupt) as error:
        return _report(error)
    if code == Interrupted.exit_code:  # Typer turns ^C into this code without a message
        console.fail("interrupted.")
    return code if isinstance(code, int) else 0


def _hoisted(arguments: list[str]) -> list[str]:
    """The arguments with the global flags first, so that they may be given anywhere before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in _GLOBAL_FLAGS]
    rest = [word for word in arguments[:end] if word not in _GLOBAL_FLAGS]
    return [*flags, *rest, *arguments[end:]]


def _report(error: BaseException) -> int:
    """Write one line on what ended the command to standard error; returns its exit code."""
    if isinstance(error, SsdError):
        console.fail(str(error), error)
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        console.fail("interrupted.")
        return Interrupted.exit_code
    if isinstance(error, TyperException):
        console.fail(_usage(error), error)
        return error.exit_code
    if is_out_of_memory(error):
        console.fail("out of memory. Use a smaller model, or close other programs.", error)
        return OutOfMemory.exit_code
    kind = type(error).__name__
    console.fail(f"unexpected {kind}: {error}. Run again with --debug to see where.", error)
    return SsdError.exit_code


def _usage(error: TyperException) -> str:
    message = error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "ssd"
    sentence = message if message.endswith((".", "?")) else f"{message}."
    return f"{sentence} See '{command} --help'."
