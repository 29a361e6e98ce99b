"""`ssd generate`: text from a core, small models, or an ensemble of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssdcli.api import Options, Request, Result, Writer, choose
from ssdcli.cli import console
from ssdcli.cli.completion import core_names, member_names, recipe_names
from ssdcli.cli.help import MORE
from ssdcli.cli.prompts import read_batch, read_context, read_prompt
from ssdcli.errors import UsageError
from ssdcli.machine import prepare_machine
from ssdcli.registry.recipes import find_recipe
from ssdcli.settings import resolve

SEPARATOR = "---"  # a line of its own between two texts

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What the text goes on from; standard input comes before it."),
]
Core = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        autocompletion=core_names,
        help="The large model, or 'none'; by default the one that the first small model was made for.",
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="NAME[=W]",
        autocompletion=member_names,
        help="A small model, and its weight in (0, 1] if not the tuned one; the core keeps the rest.",
    ),
]
Context = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Private context, seen by the small models alone. Repeatable."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help=f"Write no more tokens than this. [default: {Options.max_tokens}]"),
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="T", help=f"0 takes the likeliest tokens. [default: {Options.temperature:g}]"),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="The same seed gives the same text. [default: drawn]")]
Batch = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="JSON lines with 'prompt' and, if wanted, 'id', 'context', 'seed'; '-' is stdin."
    ),
]
AsJson = Annotated[bool | None, typer.Option("--json", help="Write one JSON object a text, on a line.")]
Stats = Annotated[bool | None, typer.Option("--stats", help="Say seeds, forward passes and speed on standard error.")]
Texts = Annotated[
    int | None,
    typer.Option(
        "--n",
        metavar="N",
        rich_help_panel=MORE,
        help=f"Texts for each prompt, with '{SEPARATOR}' lines between them. [default: {Options.n}]",
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", rich_help_panel=MORE, help="End before this text. Repeatable."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=MORE,
        help="Denoising steps a block. [default: as the models' noise process needs]",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        rich_help_panel=MORE,
        help=f"Draw from the likeliest tokens of this mass. [default: {Options.top_p:g}]",
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(metavar="RULE", rich_help_panel=MORE, help="How predictions are combined: mix. [default: mix]"),
]
Schedule = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=MORE, help="When the members run: constant. [default: constant]"),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MORE,
        autocompletion=recipe_names,
        help="A recipe, or a TOML file, with settings.",
    ),
]


@dataclass(frozen=True)
class GenerateSettings:
    """What `ssd generate` is told; the options of writing have the defaults of `Options`."""

    core: str | None = None
    members: tuple[str, ...] = field(default=(), metadata={"flag": "with"})
    context: tuple[Path, ...] = ()
    max_tokens: int = Options.max_tokens
    steps: int | None = Options.steps
    temperature: float = Options.temperature
    top_p: float = Options.top_p
    stop: tuple[str, ...] = Options.stop
    seed: int | None = Options.seed
    n: int = Options.n
    rule: Literal["mix"] = "mix"
    schedule: Literal["constant"] = "constant"
    batch: str | None = None
    json: bool = False
    stats: bool = False

    @property
    def options(self) -> Options:
        """The options of writing, checked."""
        return Options(
            max_tokens=self.max_tokens,
            steps=self.steps,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=self.stop,
            seed=self.seed,
            n=self.n,
        )


def register(app: typer.Typer) -> None:
    """Add `ssd generate` to the app."""
    app.command()(generate)


def generate(
    prompt: Prompt = None,
    core: Core = None,
    with_: With = None,
    context: Context = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    batch: Batch = None,
    json: AsJson = None,
    stats: Stats = None,
    n: Texts = None,
    stop: Stop = None,
    steps: Steps = None,
    top_p: TopP = None,
    rule: Rule = None,
    schedule: Schedule = None,
    recipe: Recipe = None,
) -> None:
    """Write text with a core, with small models, or with both together.

    Standard output carries the text alone. Several texts are parted by lines of three dashes, or use --json.
    """
    flags = {
        "core": core,
        "members": with_,
        "context": context,
        "max_tokens": max_tokens,
        "steps": steps,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop,
        "seed": seed,
        "n": n,
        "rule": rule,
        "schedule": schedule,
        "batch": batch,
        "json": json,
        "stats": stats,
    }
    _generate(prompt, resolve(GenerateSettings, flags, None if recipe is None else find_recipe(recipe)))


def _generate(prompt: str | None, settings: GenerateSettings) -> None:
    """Check all that can be checked at once, read the input, load the models and write."""
    options = settings.options
    members = _members(settings.members)
    if settings.context and not members:
        raise UsageError("--context is for small models alone, and none is named.", "Name one, as in --with notes.")
    if settings.batch is not None and prompt is not None:
        raise UsageError("with --batch the prompts come from its lines.", "Leave the PROMPT away.")
    lineup = choose(settings.core, members)
    requests = _requests(prompt, settings)
    prepare_machine()
    writer = lineup.open()
    if settings.batch is None and options.n == 1 and not settings.json:
        _stream(writer, requests[0], settings)
        return
    for place, result in enumerate(writer.results(requests, options)):
        _tell(result, settings)
        if settings.json:
            console.write_json(result.to_json())
        else:
            console.write(f"{SEPARATOR}\n{result.text}" if place else result.text, end=_line_end(result.text))


def _members(given: tuple[str, ...]) -> dict[str, float | None]:
    """Read NAME and NAME=W."""
    members: dict[str, float | None] = {}
    for item in given:
        name, equals, number = item.partition("=")
        if name in members:
            raise UsageError(f"--with names {name!r} twice.", "Name each small model once.")
        try:
            members[name] = float(number) if equals else None
        except ValueError:
            raise UsageError(
                f"--with {item}: {number!r} is not a weight.", f"Give a number, as in --with {name}=0.3."
            ) from None
    return members


def _requests(prompt: str | None, settings: GenerateSettings) -> list[Request]:
    context = read_context(settings.context)
    if settings.batch is not None:
        return read_batch(settings.batch, context)
    return [Request(read_prompt(prompt), context)]


def _stream(writer: Writer, request: Request, settings: GenerateSettings) -> None:
    """Write the one text as its blocks are committed."""
    result = writer.generate(request.prompt, settings.options, context=request.context, on_text=_write_piece)
    console.write("", end=_line_end(result.text))
    _tell(result, settings)


def _write_piece(text: str) -> None:
    console.write(text, end="")


def _line_end(text: str) -> str:
    return "" if text.endswith("\n") else "\n"


def _tell(result: Result, settings: GenerateSettings) -> None:
    """Say on standard error what the user should know of a text, and what --stats asks for."""
    prefix = "" if settings.batch is None else f"{result.id}: "
    for warning in result.warnings:
        console.warn(prefix + warning)
    if settings.stats:
        passes = ", ".join(f"{use.name} ({use.weight:g}) {use.forward_passes}" for use in result.members)
        speed = f"{result.tokens} tokens in {result.seconds:.1f} s ({result.tokens_per_second:.1f} a second)"
        sys.stderr.write(f"{prefix}seed {result.seed}; {speed}; forward passes: {passes}\n")
