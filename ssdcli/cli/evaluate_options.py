"""The options of `ssd eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssdcli.cli.help import MORE
from ssdcli.engine import catalogue

Data = Annotated[
    list[str] | None, typer.Argument(help="Files and folders of text that no member was trained on; - is stdin.")
]
Documents = Annotated[
    int | None, typer.Option(metavar="N", help="Measure no more documents than this. [default: 1000]")
]
Minutes = Annotated[float | None, typer.Option(metavar="M", help="Time for measuring losses. [default: 3]")]
Save = Annotated[
    bool,
    typer.Option(
        "--save", help="Store the best weight (mix, default schedule) and a gate in the first small model's manifest."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.svg", help="Draw bits per byte against the weight and the noise level."),
]
Generate = Annotated[
    int | None,
    typer.Option(metavar="N", help="Let all go on from N documents, and measure the texts. [default: 0]"),
]
Judge = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="A causal language model for the texts' perplexity and MAUVE."),
]
Rules = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="RULE",
        rich_help_panel=MORE,
        help=f"{', '.join(catalogue.names(catalogue.RULES))}; repeatable. [default: all that fit]",
    ),
]
Schedules = Annotated[
    list[str] | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        rich_help_panel=MORE,
        help=f"{catalogue.schedule_help()} or a TOML file; repeatable. [default: all that fit, but files]",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=MORE, help="Seed of documents, noise and texts. [default: 0]"),
]
IncludeTrained = Annotated[
    bool | None,
    typer.Option(
        "--include-trained",
        rich_help_panel=MORE,
        help="Also measure documents that a member was trained on, which are left out by default.",
    ),
]
