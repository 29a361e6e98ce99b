"""The options of `ssd generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdcli.cli.completion import core_names, member_names, recipe_names
from ssdcli.cli.help import MORE
from ssdcli.engine import catalogue
from ssdcli.generation.types import PLAIN, Options
from ssdcli.machine.placement import DTYPES, FREE

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
        metavar="FILE",
        help="JSON lines with 'prompt' or 'messages' and, if wanted, 'id', 'context', 'seed', 'system'; '-' is stdin.",
    ),
]
AsJson = Annotated[bool | None, typer.Option("--json", help="Write one JSON object a text, on a line.")]
Stats = Annotated[bool | None, typer.Option("--stats", help="Say seeds, forward passes and speed on standard error.")]
System = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        rich_help_panel=MORE,
        help="What a chat model is told before the conversation; for other models, a first paragraph.",
    ),
]
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
    typer.Option(
        metavar="RULE",
        rich_help_panel=MORE,
        help=f"How predictions are combined: {', '.join(catalogue.names(catalogue.RULES))}. [default: {PLAIN.rule}]",
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MORE,
        help=f"When members run: {catalogue.schedule_help()} or a TOML file. [default: as the noise process has it]",
    ),
]
Guide = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL:LABEL[=SCALE]",
        rich_help_panel=MORE,
        help="Steer by a classifier over the same tokenizer: a folder, a label of its own. Repeatable.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=X]",
        rich_help_panel=MORE,
        help=f"How a step chooses. {catalogue.sampler_help()}. [default: the first]",
    ),
]
Remask = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        rich_help_panel=MORE,
        help="Probability with which a masked model's step takes a known token back. [default: 0]",
    ),
]
EarlyStop = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        rich_help_panel=MORE,
        help="Stop denoising when stable and of less mean entropy; 0 for never. [default: as the noise process does]",
    ),
]
Infill = Annotated[
    bool | None,
    typer.Option("--infill", rich_help_panel=MORE, help="Fill the gaps, ____, of the prompt; the text is all of it."),
]
Gap = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=MORE, help=f"Fill each gap with so many tokens at most. [default: {Options.gap}]"
    ),
]
Explain = Annotated[
    bool | None,
    typer.Option(
        "--explain",
        rich_help_panel=MORE,
        help="Show by colour which member each token owes most to; the numbers with --json.",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="DTYPE",
        rich_help_panel=MORE,
        help=f"What a pulled core's weights are held in: {', '.join(DTYPES)}. [default: {FREE.dtype}, as fits]",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=MORE,
        help=f"Where models run: cpu, cuda, cuda:N or mps. [default: {FREE.device}, GPUs if there are any]",
    ),
]
Offload = Annotated[
    bool | None,
    typer.Option(
        "--offload",
        rich_help_panel=MORE,
        help="Let a core that does not fit wait in memory and on disk, which is slow; see 'ssd doctor --for CORE'.",
    ),
]
Cache = Annotated[
    bool | None,
    typer.Option(
        "--cache",
        rich_help_panel=MORE,
        help="Let a core with full attention read the text before a block once, not at every step: fast, not exact.",
    ),
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
