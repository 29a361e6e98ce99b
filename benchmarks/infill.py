"""Do models that were trained to fill gaps use what stands to the right of them, and what does it cost? Prints tables.

Example: python -m benchmarks infill TRAIN.jsonl.gz --heldout HELDOUT.jsonl.gz --minutes 10
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch
from tokenizers import Tokenizer

from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.process import Process, make_process
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.gaps import (
    Gap,
    GapSettings,
    View,
    both_sides,
    choose_gaps,
    left_side,
    measure_gaps,
)
from ssdcli.evaluation.losses import Losses, LossSettings, Passage, measure, passage_of
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.folder import load_backbone
from ssdcli.registry.store import Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.job import train_small
from ssdcli.training.settings import TrainSettings

_NEAR = 16
_HIGH = 0.4  # the noise levels above it are also shown on their own


@dataclass(frozen=True)
class Bench:
    """What the models are measured on: `repeats` gaps, and as many sets of noise levels, of every document."""

    process: Process
    passages: Sequence[Passage]
    block: int
    end: int
    repeats: int

    def gaps(self, text: int) -> GapSettings:
        """Gaps of one block with so many tokens of text."""
        return GapSettings(self.block, text, per_document=self.repeats)


def main() -> None:
    """Train a small model for each share of gaps, and measure all of them and their core."""
    arguments = _arguments()
    core = Registry().find(arguments.core)
    tokenizer = Tokenizer.from_file(str(core.folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    texts = [document.text for document in read_documents(arguments.heldout, ReadReport())]
    passages = [passage_of(text, tokenizer, end) for text in texts][: arguments.documents]
    process = make_process(core.manifest.process, core.manifest.vocabulary, core.manifest.constants)
    bench = Bench(process, passages, core.manifest.block_size, end, arguments.repeats)
    _print_setting(bench)
    models = {core.name: load_backbone(core.folder), **dict(_trained(arguments))}
    for text in (bench.block, bench.block // 2):
        print(f"\n## Gaps of {bench.block} with {text} tokens of text\n")
        for name, model in models.items():
            _print_gaps(name, model, bench, text)
    _print_plain(models, bench, f"gap-share-{arguments.shares[0]:g}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="text to train on")
    parser.add_argument("--heldout", nargs="+", required=True, help="text that no model was trained on")
    parser.add_argument("--for", dest="core", default="starter", help="the core of the models")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="values of --gap-share")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="for each training")
    budget.add_argument("--steps", type=int, help="for each training, instead of minutes")
    parser.add_argument("--size", help="of the models; else data and time decide")
    parser.add_argument("--documents", type=int, help="held-out documents that are measured, all by default")
    parser.add_argument("--repeats", type=int, default=2, help="gaps of a document")
    return parser.parse_args()


def _trained(arguments: argparse.Namespace) -> Iterator[tuple[str, BlockDiffusionLM]]:
    """The models, trained from the same seed, by the names under which they are registered."""
    for share in arguments.shares:
        settings = TrainSettings(
            data=tuple(arguments.data),
            core=arguments.core,
            name=f"gap-share-{share:g}",
            size=arguments.size,
            minutes=arguments.minutes,
            steps=arguments.steps,
            gap_share=share,
        )
        trained = train_small(settings, overwrite=True)
        training = trained.description
        print(f"- {settings.name}: {training.size}, {training.steps} steps, {training.seconds:.0f} s", flush=True)
        yield settings.name, load_backbone(trained.folder)


def _near(gap: Gap) -> Prompt:
    return Prompt(gap.before, gap.after[:_NEAR], len(gap.canvas))


def _views(end: int) -> dict[str, View]:
    """What is shown of a gap, by name; the first is what the others are compared with."""
    return {
        "left side alone": left_side,
        "both sides": both_sides,
        f"both sides, {_NEAR} tokens of the right one": _near,
        "right side put before the left one": lambda gap: Prompt([end, *gap.after, end, *gap.before]),
    }


def _print_gaps(name: str, model: BlockDiffusionLM, bench: Bench, text: int) -> None:
    settings, views = bench.gaps(text), _views(bench.end)
    losses = measure_gaps(
        Denoiser(model, bench.process), choose_gaps(bench.passages, settings), list(views.values()), settings
    )
    high = losses.above(_HIGH)
    print(f"{name}, {len(losses.tokens)} documents, {losses.tokens.sum():,.0f} tokens\n")
    print(f"| shown | loss | gain | loss above t = {_HIGH} | gain |\n| --- | --- | --- | --- | --- |")
    for place, view in enumerate(views):
        cells = [
            cell
            for part in (losses, high)
            for cell in (f"{part.loss(place)[0]:.4f}", _with_error(*part.gain(place, 0)) if place else "")
        ]
        print(f"| {view} | {' | '.join(cells)} |")
    print(flush=True)


def _print_plain(models: dict[str, BlockDiffusionLM], bench: Bench, reference: str) -> None:
    """The loss of whole documents from left to right, against that of the first model that was trained here."""
    window = min(model.context for model in models.values())
    measured = {
        name: measure([model], bench.process, bench.passages, [0.0], LossSettings(window, bench.repeats))
        for name, model in models.items()
    }
    print(f"## Plain text\n\n| model | loss | bits per byte | over {reference} |\n| --- | --- | --- | --- |")
    for name, losses in measured.items():
        sums = np.hstack([measured[reference].sums, losses.sums])
        paired = Losses(np.array([0.0, 1.0]), sums, losses.tokens, losses.bytes).difference(0.0, 1.0)
        over = "" if name == reference else _with_error(*paired)
        print(f"| {name} | {losses.nats_per_token()[0]:.4f} | {losses.bits_per_byte()[0]:.4f} | {over} |")


def _with_error(value: float, error: float) -> str:
    return f"{value:+.4f} ± {error:.4f}"


def _print_setting(bench: Bench) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, torch {torch.__version__},")
    print(f"{torch.get_num_threads()} threads: `{' '.join(sys.argv)}`")
    print(f"\n{len(bench.passages)} held-out documents, {bench.process.name}; losses in nats per token\n", flush=True)


if __name__ == "__main__":
    main()
