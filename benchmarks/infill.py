"""Do models that were trained to fill gaps use what follows a gap, and what does it cost?

    python -m benchmarks infill TRAIN.jsonl.gz --heldout HELDOUT.jsonl.gz --minutes 10 --out FILE

Trains a small model for each share of windows with a gap (`--gap-share` of `ssd train-small`), from the same seed, and
measures all of them and their core on gaps in held-out documents and on plain text. Losses are denoising losses in nats
per token; gains and differences are paired by document.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import Workshop
from benchmarks.lib.gaps import Gap, GapSettings, View, both_sides, choose_gaps, left_side, measure_gaps
from benchmarks.lib.models import Model
from benchmarks.lib.tables import heading, signed, table
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.losses import LossSettings, measure
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.training.settings import TrainSettings

_NEAR = 16
_HIGH = 0.4  # the noise levels above it are also shown by themselves


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", nargs="+", help="text to train on")
    parser.add_argument("--heldout", required=True, help="text that no model was trained on")
    parser.add_argument("--for", dest="core", default="starter", help="the core of the models")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="values of --gap-share")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="for each training")
    budget.add_argument("--steps", type=int, help="for each training, instead of minutes")
    parser.add_argument("--size", help="of the models; by default the data and the time decide")
    parser.add_argument("--documents", type=int, help="held-out documents that are measured, all by default")
    parser.add_argument("--repeats", type=int, default=2, help="gaps of a document")
    parser.add_argument("--out", type=Path, help="where trainings are recorded; models are kept beside it")


def main(given: Namespace) -> None:
    """Train the models that are missing, and measure all of them and their core."""
    models = {model.name: model for model in trained(Workshop(given), given)}
    core = models[given.core]
    scored_texts, block = core.scored_texts(given.heldout, given.documents), core.manifest.block_size
    print(f"{heading()}\n\n{len(scored_texts)} held-out documents, {core.process.name}; losses in nats per token")
    for text in (block, block // 2):
        print(f"\n## Gaps of {block} with {text} tokens of text\n")
        settings = GapSettings(block, text, per_document=given.repeats)
        for model in models.values():
            print(gap_table(model, scored_texts, settings), flush=True)
    print(f"## Plain text\n\n{plain_table(models, scored_texts, given.repeats)}")


def trained(workshop: Workshop, given: Namespace) -> Iterator[Model]:
    """The core, and a model for each share of gaps."""
    yield workshop.model(given.core)
    for share in given.shares:
        settings = TrainSettings(
            data=tuple(given.data),
            core=given.core,
            name=f"gap-share-{share:g}",
            size=given.size,
            minutes=given.minutes,
            steps=given.steps,
            gap_share=share,
        )
        workshop.trained(settings)
        yield workshop.model(settings.name)


def _near(gap: Gap) -> Prompt:
    return Prompt(gap.before, gap.after[:_NEAR], len(gap.canvas))


def views_of(end: int) -> dict[str, View]:
    """What is shown of a gap, by name; the others are compared with the first."""
    return {
        "left side alone": left_side,
        "both sides": both_sides,
        f"both sides, {_NEAR} tokens of the right one": _near,
        "right side put before the left one": lambda gap: Prompt([end, *gap.after, end, *gap.before]),
    }


def gap_table(model: Model, scored_texts: Sequence[ScoredText], settings: GapSettings) -> str:
    """A model's losses by what it is shown, at all noise levels and at the high ones."""
    views = views_of(model.end)
    losses = measure_gaps(model.denoiser, choose_gaps(scored_texts, settings), list(views.values()), settings)
    parts = losses.columns(), losses.columns(above=_HIGH)
    rows = [
        [name, *(cell for part in parts for cell in (f"{part.loss(place)[0]:.4f}", _over(part, place, 0)))]
        for place, name in enumerate(views)
    ]
    header = ["shown", "loss", "gain", f"loss above t = {_HIGH}", "gain"]
    title = f"{model.name}, {len(losses.tokens)} documents, {losses.tokens.sum():,.0f} tokens"
    return f"{title}\n\n{table(header, rows)}\n"


def plain_table(models: Mapping[str, Model], scored_texts: Sequence[ScoredText], repeats: int) -> str:
    """The loss of whole documents from left to right, and its distance from the first model that was trained here."""
    window = min(model.backbone.context for model in models.values())
    measured = [
        measure([model.backbone], model.process, scored_texts, [0.0], LossSettings(window, repeats))
        for model in models.values()
    ]
    columns = Columns.side_by_side([Columns.of(losses) for losses in measured])
    rows = [
        [name, f"{columns.loss(place)[0]:.4f}", f"{losses.bits_per_byte()[0]:.4f}", _over(columns, 1, place)]
        for place, (name, losses) in enumerate(zip(models, measured, strict=True))
    ]
    return table(["model", "loss", "bits per byte", f"over {list(models)[1]}"], rows)


def _over(columns: Columns, place: int, over: int) -> str:
    return "" if place == over else signed(*columns.gain(place, over))
