"""The conversation of `ssd chat`: its turns, who answers, and the commands that change either."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssdcli.cli import console
from ssdcli.cli.explanation import painted, warn_if_colourless
from ssdcli.cli.generate import ensemble_of, line_end, tell
from ssdcli.cli.inputs import ModelFlags, read_context
from ssdcli.cli.live_canvas import WATCH, watching
from ssdcli.errors import UsageError, on_out_of_memory, require
from ssdcli.generation.blend import PLAIN, Blend
from ssdcli.generation.types import Options, Request
from ssdcli.machine.placement import FREE, Placement
from ssdcli.options.declare import group, option
from ssdcli.registry.names import suggest
from ssdcli.serving.ensembles import Ensembles
from ssdcli.text.messages import Message


@dataclass(frozen=True)
class ChatSettings:
    """The settings of `ssd chat`.

    models: who answers, to begin with.
    options: how answers are written; each further one has the next seed.
    blend: how members combine.
    placement: where the models run.
    stats: whether the cost of each answer is reported.
    watch: whether answers are shown while they are denoised.
    """

    models: ModelFlags = group(ModelFlags())
    options: Options = group(Options(max_tokens=1024), without=("n", "infill", "gap", "candidates"))
    blend: Blend = group(PLAIN)
    placement: Placement = group(FREE)
    stats: bool = option(False, "Report seeds, forward passes and speed on standard error.", common=True)
    watch: bool = WATCH


class Conversation:
    """Turns that are answered one after the other."""

    def __init__(self, settings: ChatSettings, between: str = "") -> None:
        """Load the models (SsdError); `between` is written between two answers."""
        self._options = settings.options
        self._blend = settings.blend
        self._stats = settings.stats
        self._watch = settings.watch
        self._between = between
        self._ensembles = Ensembles(settings.placement)
        self._turns: tuple[Message, ...] = ()
        self._saved: set[Path] = set()
        self._core: str | None = None
        self._context = read_context(settings.models.context)
        self._change(settings.models)

    def take(self, line: str) -> None:
        """Answer a turn or obey a command (SsdError, KeyboardInterrupt, at its end EOFError)."""
        said = line.encode("utf-8", "replace").decode("utf-8")
        if not said.startswith("/"):
            if said.strip():
                self._answer((*self._turns, Message("user", said.strip())))
            return
        name, words = _parsed(said[1:])
        command = COMMANDS.get(name)
        if command is None:
            remedy = f"{suggest(name, COMMANDS)} /help lists the commands; a space before the / makes it a turn."
            raise UsageError(f"there is no command '/{name}'.", remedy.strip())
        require(command.takes(len(words)), f"/{name} is not used like this.", f"Write {_usage(name)}.")
        command.run(self, words)

    def use(self, words: Sequence[str]) -> None:
        """Let these small models answer, each NAME or NAME=WEIGHT; none for the core alone."""
        self._change(replace(self._models, members=tuple(words)))

    def read(self, words: Sequence[str]) -> None:
        """Read the private context anew from these files."""
        paths = tuple(Path(word).expanduser() for word in words)
        context = read_context(paths)
        self._change(replace(self._models, context=paths))
        self._context = context

    def explain(self, _: Sequence[str]) -> None:
        """Begin or end to colour tokens by the members that they owe most to."""
        self._options = replace(self._options, explain=not self._options.explain)
        if self._options.explain:
            warn_if_colourless()
        console.note(f"attribution {'on' if self._options.explain else 'off'}")

    def watch(self, _: Sequence[str]) -> None:
        """Begin or end to show answers while they are denoised."""
        self._watch = not self._watch
        console.note(f"watching {'on' if self._watch else 'off'}")

    def retry(self, _: Sequence[str]) -> None:
        """Write another answer in place of the last one."""
        require(bool(self._turns), "there is no answer yet.", "Say something first.")
        self._answer(self._turns[:-1])

    def save(self, words: Sequence[str]) -> None:
        """Write the conversation as a line of JSON; only a file that it wrote itself is replaced."""
        require(bool(self._turns), "there is no answer yet.", "Say something first.")
        path = Path(words[0]).expanduser()
        require(path in self._saved or not path.exists(), f"{str(path)!r} exists.", "Name another file.")
        system = (Message("system", self._options.system),) if self._options.system else ()
        turns = [{"role": turn.role, "content": turn.content} for turn in (*system, *self._turns)]
        try:
            path.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written ({error.strerror}).", "Name another file.") from None
        self._saved.add(path)
        console.note(f"saved in {path}")

    def help(self, _: Sequence[str]) -> None:
        """Show the commands."""
        width = max(len(_usage(name)) for name in COMMANDS)
        lines = [f"{_usage(name):<{width}}  {command.help}" for name, command in COMMANDS.items()]
        sys.stderr.write("".join(f"{line}\n" for line in lines))

    def quit(self, _: Sequence[str]) -> None:
        """End the conversation."""
        raise EOFError

    def _change(self, models: ModelFlags) -> None:
        """Let these models answer; where none is named, the core stays."""
        core = models.core if models.core is not None or models.members else self._core
        spec = ensemble_of(replace(models, core=core), self._blend)
        console.note(", ".join(f"{member.name} {member.weight:.2g}" for member in spec.members))
        with console.waiting("loading"):
            self._writer = self._ensembles.open(spec)
        self._models, self._core = models, spec.core

    def _answer(self, turns: tuple[Message, ...]) -> None:
        """Write the answer to the last of these turns, as text becomes certain; both are kept, however it ends.

        If nothing has been written when it is interrupted, the conversation stays as it was.
        """
        options, writer = self._options, self._writer
        (row,) = writer.rows([Request(messages=turns, context=self._context)], options)
        if options.seed is not None:
            self._options = replace(options, seed=options.seed + 1)
        console.write(self._between if self._turns else "", end="")
        written, shown, result = "", 0, None
        try:
            with (
                on_out_of_memory("Use smaller models, or begin anew."),
                watching(writer, row, wanted=self._watch) as live,
            ):
                pieces = writer.write([row], options)
                for _, piece in pieces if live else console.begun(pieces, "writing"):
                    written, result = written + piece.text, piece.result
                    if not live:
                        console.write(painted(written, row.explained, writer.authors, shown), end="")
                        shown = len(written)
        finally:
            if written or result is not None:
                self._turns = (*turns, Message("assistant", written))
                console.write(painted(written, row.explained, writer.authors, shown), end=line_end(written))
        if result is not None:
            tell(result, stats=self._stats)


@dataclass(frozen=True)
class Command:
    """What a word behind a slash does.

    run: how. help: what, in a sentence. words: what follows it, as in the help; several where it ends with dots.
    """

    run: Callable[[Conversation, Sequence[str]], None]
    help: str
    words: str = ""

    def takes(self, count: int) -> bool:
        """Whether so many words can follow it."""
        return self.words.endswith("...") or count == bool(self.words)


COMMANDS = {
    "with": Command(
        Conversation.use, "These small models answer beside the core; none: the core alone.", "[NAME[=W]]..."
    ),
    "context": Command(Conversation.read, "The files are the private context; none: there is none.", "[FILE]..."),
    "explain": Command(Conversation.explain, "Colour tokens by the member that they owe most to, or no longer."),
    "watch": Command(Conversation.watch, "Show tokens where and when they are decided, or no longer."),
    "retry": Command(Conversation.retry, "Write another answer in place of the last one."),
    "save": Command(Conversation.save, "Write the conversation as JSON, for --batch or train-small.", "FILE"),
    "help": Command(Conversation.help, "Show this."),
    "quit": Command(Conversation.quit, "End the conversation, as ^D does."),
}


def _usage(name: str) -> str:
    return f"/{name} {COMMANDS[name].words}".rstrip()


def _parsed(line: str) -> tuple[str, list[str]]:
    """A command's name and what follows it, in quotes where it has spaces (UsageError for an open quote)."""
    try:
        name, *words = shlex.split(line) or [""]
    except ValueError:
        raise UsageError("a quote is not closed.", "Close it, or write \\ before it.") from None
    return name, words
