"""`ssd chat`: a conversation with an ensemble, at a terminal or line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from ssdcli.cli import completion, console
from ssdcli.cli.conversation import COMMANDS, ChatSettings, Conversation
from ssdcli.cli.flags import Recipe, resolve, with_flags
from ssdcli.cli.generate import SEPARATOR, ensemble_of
from ssdcli.errors import SsdError, UsageError
from ssdcli.machine.environment import import_torch
from ssdcli.registry.recipes import find_recipe

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession


def register(app: typer.Typer) -> None:
    """Add `ssd chat` to the app."""
    app.command("chat")(with_flags(ChatSettings, chat))


def chat(flags: Mapping[str, object], recipe: Recipe = None) -> None:
    """Talk with a core, with small models, or with both together.

    At a terminal, /help lists the commands, ^C interrupts an answer, and ^D ends the conversation. Otherwise each line
    of standard input is a turn or a command. Nothing is kept but what /save writes.
    """
    settings: ChatSettings = resolve(ChatSettings, flags, None if recipe is None else find_recipe(recipe))
    ensemble_of(settings.models, settings.blend)  # a typo is answered before torch comes
    at_terminal = console.can_ask()
    lines = _typed(_session()) if at_terminal else _piped()
    import_torch()
    conversation = Conversation(settings, between="" if at_terminal else f"{SEPARATOR}\n")
    console.note("/help lists the commands.")
    for line in lines:
        try:
            conversation.take(line)
        except EOFError:
            return
        except (SsdError, KeyboardInterrupt) as error:
            if not at_terminal:
                raise
            sys.stderr.write("\r")  # back over the terminal's own ^C
            console.fail("interrupted." if isinstance(error, KeyboardInterrupt) else str(error), error)


def _piped() -> Iterator[str]:
    """The lines of standard input, as they come."""
    for line in () if sys.stdin is None else sys.stdin.buffer:
        yield line.decode("utf-8", "replace")


def _typed(session: PromptSession[str]) -> Iterator[str]:
    """What is typed, until ^D; ^C drops what was typed so far."""
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _session() -> PromptSession[str]:
    """An editor on standard error whose history is in memory alone: Enter sends, Alt-Enter begins a new line."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.enums import DEFAULT_BUFFER
        from prompt_toolkit.filters import has_focus
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.output import create_output
    except ImportError:
        raise UsageError("at a terminal, 'ssd chat' needs prompt_toolkit.", "Run pip install 'ssdcli[chat]'.") from None
    keys, typing = KeyBindings(), has_focus(DEFAULT_BUFFER)

    @keys.add("enter", filter=typing)
    def _(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    def words() -> list[str]:
        return [*(f"/{name}" for name in COMMANDS), *(name for name, _ in completion.member_names(""))]

    return PromptSession(
        "> ",
        multiline=True,
        prompt_continuation="  ",
        key_bindings=keys,
        completer=WordCompleter(words, WORD=True),
        complete_while_typing=False,
        output=create_output(stdout=sys.stderr),
    )
