"""Tells what a teacher is worth to a small model, at equal steps and at equal time.

    python -m benchmarks teachers [--til TRAIN HELDOUT] [--steps N] [--quick]

Trains small models for the bundled core on the bundled notebook, and on a corpus of JSON lines with `text` if one is
named: without a teacher, with the core as teacher at several weights, and with the core as a teacher that reads each
document before it predicts it; and once more with each noised sample seen twice, what the teacher expects of it being
kept on disk. What a step costs is measured in a burst of steps by turns, in processor time; a model
without a teacher is also trained for as many steps as fit into the time of those with one. Prints the held-out loss of
each alone and with the core at the best weight, paired by document with the model without a teacher of as many steps
and with that of as much time, and how many of the notebook's facts were told apart. All windows have half of the
core's context, so that a document's part in a window fits in before it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import environ
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.lib.tables import machine, table
from ssdcli.data.documents import ReadReport
from ssdcli.data.readers.files import read_documents
from ssdcli.demo import story as demo
from ssdcli.engine.blocks import block_ids
from ssdcli.engine.packed import Packed
from ssdcli.engine.process import Process, make_process
from ssdcli.evaluation.losses import Losses, LossSettings, Passage, measure, passage_of
from ssdcli.evaluation.sweep import GRID, best_weight
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.folder import load_backbone
from ssdcli.registry.store import STARTER, Entry, Registry
from ssdcli.text.tokenizer import END_OF_TEXT, special_id
from ssdcli.training.job import train_small
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from ssdcli.training.teacher import Teacher, denoise_in_context

WEIGHTS = (0.3, 0.6)
STEPS, QUICK_STEPS = 400, 60
ALONE, TAUGHT, IN_CONTEXT = "no teacher", "teacher", "teacher with the document"


@dataclass(frozen=True)
class Corpus:
    """Text to train on and to measure on; facts are asked where there are any."""

    name: str
    data: str
    heldout: str
    facts: tuple[demo.Fact, ...] = ()


@dataclass(frozen=True)
class Run:
    """A training: how it is taught, the teacher's weight, its steps."""

    kind: str
    weight: float
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What a run came to. losses: over GRID, the small model's share."""

    run: Run
    losses: Losses
    apart: dict[str, int] | None


def main() -> None:
    """Measure the costs, train, and print the tables."""
    arguments = _arguments()
    environ["SSD_HOME"] = tempfile.mkdtemp(prefix="teachers-")
    size, weights = ("nano", WEIGHTS[:1]) if arguments.quick else ("micro", WEIGHTS)
    steps = arguments.steps or (QUICK_STEPS if arguments.quick else STEPS)
    core = Registry().find(STARTER)
    book = demo.read_notebook()
    corpora = [Corpus("notebook", str(book.notes), str(book.heldout), book.facts)]
    corpora += [Corpus("til", *arguments.til)] if arguments.til else []
    print(f"{machine()}; {size}, {arguments.batch_tokens} tokens a step, seed {arguments.seed}\n")
    plain = _settings(core, arguments, size)
    costs = _costs(core, train_small(replace(plain, data=(corpora[0].data,), steps=1)).folder, arguments.batch_tokens)
    print("A step's processor time, in milliseconds and over that without a teacher:\n")
    print(table(["step", "ms", "times"], [[kind, ms, ms / costs[ALONE]] for kind, ms in costs.items()]), flush=True)
    for corpus in corpora:
        passages = _passages(core, corpus.heldout)[: arguments.documents]
        outcomes = [_outcome(plain, run, corpus, passages) for run in _runs(steps, weights, costs)]
        _print(corpus, passages, outcomes, costs)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--til", nargs=2, metavar=("TRAIN", "HELDOUT"), help="a corpus beside the notebook")
    parser.add_argument("--steps", type=int, help=f"of the models with a teacher, {STEPS} by default")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--documents", type=int, default=100, help="held-out documents that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help=f"nano models of {QUICK_STEPS} steps and one weight")
    return parser.parse_args()


def _settings(core: Entry, arguments: argparse.Namespace, size: str) -> TrainSettings:
    """What all trainings have in common."""
    return TrainSettings(
        name="taught",
        core=core.name,
        size=size,
        seed=arguments.seed,
        batch_tokens=arguments.batch_tokens,
        context=core.manifest.context // 2,
        warmup=20,
    )


def _runs(steps: int, weights: Sequence[float], costs: dict[str, float]) -> list[Run]:
    """Those with a teacher for so many steps, those without one for as many and for as long."""
    as_long = (round(steps * cost / costs[ALONE]) for cost in costs.values())
    alone = [Run(ALONE, 0.0, count) for count in dict.fromkeys(as_long)]
    return alone + [Run(kind, weight, steps) for kind in costs if kind != ALONE for weight in weights]


def _costs(core: Entry, folder: Path, tokens: int) -> dict[str, float]:
    """Processor time of a step of each kind in milliseconds, the least of some by turns."""
    learner, teacher = load_backbone(folder).requires_grad_(True), load_backbone(core.folder)
    process, window = _process(core), learner.context
    taught = partial(Teacher, teacher, process, learner.vocabulary, WEIGHTS[0])
    with_context = taught(partial(denoise_in_context, separator=(0, 0)))
    objectives = {
        ALONE: Objective(learner, process, 0),
        TAUGHT: Objective(learner, process, 0, taught()),
        IN_CONTEXT: Objective(learner, process, 0, with_context),
    }
    rows = torch.randint(3, process.vocabulary, (max(1, tokens // window), window))
    blocks = block_ids(window, learner.block_size, torch.zeros(len(rows), dtype=torch.int64))
    batch = {"columns": vars(Packed.plain(rows, blocks)), "index": torch.arange(len(rows))}
    times: dict[str, list[float]] = {kind: [] for kind in objectives}
    for _ in range(6):
        for kind, objective in objectives.items():
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
                loss = objective(**batch)
            loss.backward()
            times[kind].append(1000 * (time.process_time() - began))
    return {kind: min(measured) for kind, measured in times.items()}


def _process(core: Entry) -> Process:
    manifest = core.manifest
    return make_process(manifest.process, manifest.vocabulary, manifest.constants)


def _outcome(plain: TrainSettings, run: Run, corpus: Corpus, passages: Sequence[Passage]) -> Outcome:
    """Train, and measure on the held-out text and the facts."""
    settings = replace(plain, data=(corpus.data,), steps=run.steps)
    if run.kind != ALONE:
        settings = replace(
            settings,
            distill=plain.core,
            distill_weight=run.weight,
            distill_context=run.kind == IN_CONTEXT,
        )
    trained = train_small(settings, overwrite=True)
    core = Registry().find(plain.core)
    members = [load_backbone(core.folder), load_backbone(trained.folder)]
    losses = measure(members, _process(core), passages, GRID, LossSettings(members[1].context))
    if not corpus.facts:
        return Outcome(run, losses, None)
    recalls = demo.recall(demo.open_cast(core.name, trained.description.manifest.name), corpus.facts)
    return Outcome(run, losses, demo.told_apart(recalls))


def _passages(core: Entry, heldout: str) -> list[Passage]:
    tokenizer = Tokenizer.from_file(str(core.folder / "tokenizer.json"))
    end = special_id(tokenizer, END_OF_TEXT)
    return [passage_of(document.text, tokenizer, end) for document in read_documents([heldout], ReadReport())]


def _print(corpus: Corpus, passages: Sequence[Passage], outcomes: list[Outcome], costs: dict[str, float]) -> None:
    tokens = sum(len(passage.tokens) - 1 for passage in passages)
    core = outcomes[0].losses.nats_per_token()[0]
    print(f"\n## {corpus.name}\n\n{len(passages)} held-out documents, {tokens:,} tokens; the core alone {core:.4f}")
    if corpus.facts:
        print(f"Of {len(corpus.facts)} facts the core alone tells {outcomes[0].apart[demo.CORE]} apart.")
    header = ["training", "weight", "steps", "alone", "gain, equal steps", "gain, equal time", "with the core", "facts"]
    print("\n" + table(header, [list(_cells(one, outcomes, costs)) for one in outcomes]), flush=True)


def _cells(one: Outcome, outcomes: list[Outcome], costs: dict[str, float]) -> Iterator[object]:
    run = one.run
    yield from (run.kind, f"{run.weight:g}", run.steps, f"{one.losses.nats_per_token()[-1]:.4f}")
    as_long = round(run.steps * costs[run.kind] / costs[ALONE])
    for steps in (run.steps, as_long):
        (other,) = (o for o in outcomes if o.run == Run(ALONE, 0.0, steps)) if run.kind != ALONE else (one,)
        yield "" if other is one else _gain(other.losses, one.losses)
    best = best_weight(one.losses)
    yield f"{one.losses.nats_per_token()[one.losses.place(best)]:.4f} at {best:g}"
    yield "" if one.apart is None else f"{one.apart[demo.SMALL]} alone, {one.apart[demo.ENSEMBLE]} with the core"


def _gain(before: Losses, after: Losses) -> str:
    """What the second of two models loses less alone, in nats per token, paired by document."""
    sums = np.stack([before.sums[:, -1], after.sums[:, -1]], axis=1)
    mean, error = Losses(np.array([0.0, 1.0]), sums, before.tokens, before.bytes).difference(1.0, 0.0)
    return f"{mean:+.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
