"""The options of `ssd train-small`."""

from __future__ import annotations

from typing import Annotated

import typer

from ssdcli.cli import completion
from ssdcli.cli.help import MORE
from ssdcli.engine import catalogue

Data = Annotated[list[str] | None, typer.Argument(help="Files and folders of text; - is standard input.")]
Core = Annotated[
    str | None, typer.Option("--for", help="The core that it will write with.", autocompletion=completion.core_names)
]
Name = Annotated[str | None, typer.Option("--name", help="The new model's name.")]
Size = Annotated[
    str | None, typer.Option("--size", help="nano, micro, mini, small or base; else data and time decide.")
]
Minutes = Annotated[float | None, typer.Option("--minutes", help="Time for everything, 10 by default.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Training steps, instead of minutes.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of weights, order and noise.")]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="NAME|FOLDER",
        help="The registered model, or checkpoint folder, to begin from; else from scratch.",
        autocompletion=completion.beginning_names,
    ),
]
Lora = Annotated[
    int | None, typer.Option("--lora", metavar="RANK", help="Train only an adapter of this rank on --init, as 8.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model of this name.")]
Recipe = Annotated[
    str | None, typer.Option("--recipe", help="A recipe's name or file.", autocompletion=completion.recipe_names)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="The small model before specialisation, for --rule contrast.",
        rich_help_panel=MORE,
        autocompletion=completion.member_names,
    ),
]
Passes = Annotated[
    float | None, typer.Option(help="Over the text at most, however long the time is.", rich_help_panel=MORE)
]
Heldout = Annotated[float | None, typer.Option(help="Share of the text kept for measuring.", rich_help_panel=MORE)]
GapShare = Annotated[
    float | None, typer.Option(help="Share of the text to train on with a gap to fill.", rich_help_panel=MORE)
]
Canaries = Annotated[
    int | None,
    typer.Option(help="Made-up secrets to plant in the text, for 'ssd audit'; 8 do.", rich_help_panel=MORE),
]
Distill = Annotated[
    str | None,
    typer.Option(
        help="A model, such as the core, whose predictions to learn beside the text.",
        rich_help_panel=MORE,
        autocompletion=completion.core_names,
    ),
]
DistillWeight = Annotated[float | None, typer.Option(help="Its share of the loss.", rich_help_panel=MORE)]
DistillContext = Annotated[
    bool | None,
    typer.Option("--distill-context", help="Let it read each document before it predicts it.", rich_help_panel=MORE),
]
Shift = Annotated[
    bool | None,
    typer.Option(
        "--shift/--no-shift",
        help="Predict a token where the one before it stands; else as suits --init and the noise.",
        rich_help_panel=MORE,
    ),
]
BatchTokens = Annotated[int | None, typer.Option(help="Tokens of a training step.", rich_help_panel=MORE)]
Optimizer = Annotated[
    str | None, typer.Option(help="muon (for matrices, beside AdamW) or adamw.", rich_help_panel=MORE)
]
Patience = Annotated[
    int | None,
    typer.Option(help="Measurements, of 20, without progress before it ends early; 0: never.", rich_help_panel=MORE),
]
LearningRate = Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=MORE)]
WeightDecay = Annotated[float | None, typer.Option(help="Decay of the matrices.", rich_help_panel=MORE)]
Warmup = Annotated[int | None, typer.Option(help="Steps of rising rate.", rich_help_panel=MORE)]
Decay = Annotated[float | None, typer.Option(help="Share of steps of falling rate.", rich_help_panel=MORE)]
Hidden = Annotated[int | None, typer.Option(help="Width, instead of a size's.", rich_help_panel=MORE)]
Layers = Annotated[int | None, typer.Option(help="Depth, instead of a size's.", rich_help_panel=MORE)]
Context = Annotated[int | None, typer.Option(help="Tokens of a training window.", rich_help_panel=MORE)]
CheckpointSeconds = Annotated[float | None, typer.Option(help="Seconds between checkpoints.", rich_help_panel=MORE)]
Process = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(catalogue.names(catalogue.PROCESSES))}; with --for none only.", rich_help_panel=MORE
    ),
]
BlockSize = Annotated[
    int | None, typer.Option(help="Tokens of a block, where the core leaves it open.", rich_help_panel=MORE)
]
Vocabulary = Annotated[int | None, typer.Option(help="Tokens to learn; with --for none only.", rich_help_panel=MORE)]
