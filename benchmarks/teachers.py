"""What is a teacher worth to a small model, at equal steps and at equal time?

    python -m benchmarks teachers --corpus TRAIN HELDOUT --steps 400 --out FILE
    python -m benchmarks teachers --table FILE

Trains small models for the bundled core on the bundled notebook and the given corpora: without a teacher, with the core
as teacher at several weights, and with the core as a teacher that reads each document before it predicts it. The cost
of a step is measured in a burst of steps that take turns, in processor time; a model without a teacher is also trained
for as many steps as fit into the time of those with one. Prints the held-out loss of each alone and with the core at
the best weight, paired by document with the model without a teacher of equal steps and of equal time, and how many of
the notebook's facts are told apart. All windows have half of the core's context, so that a document's part in a window
fits in before it.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.lib.blocks import block_ids
from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, corpora_of
from benchmarks.lib.experiment import Line, Workshop, add_files, grouped, run
from benchmarks.lib.models import Model
from benchmarks.lib.tables import signed, table
from benchmarks.lib.timing import least
from ssdcli.demo import story as demo
from ssdcli.engine.packed import Packed
from ssdcli.evaluation.losses import GRID, LossSettings, best_weight, measure
from ssdcli.machine.hardware import has_fast_bf16
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import STARTER
from ssdcli.training.objective import Objective
from ssdcli.training.settings import TrainSettings
from ssdcli.training.teacher import Teacher, denoise_in_context

QUICK = {"size": "nano", "weights": (0.3,), "steps": 60}
ALONE, TAUGHT, IN_CONTEXT = "no teacher", "teacher", "teacher with the document"


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--steps", type=int, default=400, help="of the models with a teacher")
    parser.add_argument("--size", default="micro")
    parser.add_argument("--weights", type=float, nargs="+", default=(0.3, 0.6), help="of a teacher")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--documents", type=int, default=100, help="held-out documents that are measured")
    parser.add_argument("--seed", type=int, default=0)
    add_files(parser)


def main(given: Namespace) -> None:
    """Train what is missing, and print the tables."""
    run(given, partial(work, given), report)


def work(given: Namespace, workshop: Workshop) -> None:
    """The costs, then a piece for each training."""
    costs = workshop.piece({"piece": "costs"}, lambda: {"costs": costs_of(workshop, given)})["costs"]
    for corpus in corpora_of(given):
        for steps in dict.fromkeys(round(given.steps * cost / costs[ALONE]) for cost in costs.values()):
            _piece(workshop, corpus, (ALONE, 0.0, steps), given)
        for kind in (TAUGHT, IN_CONTEXT):
            for weight in given.weights:
                _piece(workshop, corpus, (kind, weight, given.steps), given)


def _piece(workshop: Workshop, corpus: Corpus, way: tuple[str, float, int], given: Namespace) -> None:
    kind, weight, steps = way
    asked = {"corpus": corpus.name, "kind": kind, "weight": weight, "steps": steps}
    workshop.piece(asked, partial(measured, workshop, corpus, way, given))


def settings_of(core: Model, given: Namespace) -> TrainSettings:
    """What all trainings have in common."""
    settings = TrainSettings(core=core.name, size=given.size, seed=given.seed, batch_tokens=given.batch_tokens)
    return replace(settings, context=core.manifest.context // 2, warmup=20)


def costs_of(workshop: Workshop, given: Namespace) -> dict[str, float]:
    """Processor time of a step of each kind in milliseconds, the least of a few."""
    core = workshop.model(STARTER)
    first = replace(settings_of(core, given), name="first-step", data=(Corpus.notebook().train,), steps=1)
    workshop.trained(first)
    learner = load_backbone(workshop.model(first.name).folder).requires_grad_(True)
    teacher = partial(Teacher, load_backbone(core.folder), core.process, learner.vocabulary, given.weights[0])
    objectives = {
        ALONE: Objective(learner, core.process, 0),
        TAUGHT: Objective(learner, core.process, 0, teacher()),
        IN_CONTEXT: Objective(learner, core.process, 0, teacher(partial(denoise_in_context, separator=(0, 0)))),
    }
    rows = torch.randint(3, core.process.vocabulary, (max(1, given.batch_tokens // learner.context), learner.context))
    blocks = block_ids(learner.context, learner.block_size, torch.zeros(len(rows), dtype=torch.int64))
    columns = vars(Packed.plain(rows, blocks))

    def step(objective: Objective) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):
            loss = objective(columns, torch.arange(len(rows)))
        loss.backward()

    return least({kind: partial(step, one) for kind, one in objectives.items()}, rounds=5, clock=time.process_time)


def measured(workshop: Workshop, corpus: Corpus, way: tuple[str, float, int], given: Namespace) -> Line:
    """Train a model, and measure it on the held-out text and the facts."""
    (kind, weight, steps), core = way, workshop.model(STARTER)
    name = f"{corpus.name}-{kind}-{weight:g}-{steps}".replace(" ", "-")
    settings = replace(settings_of(core, given), name=name, data=(corpus.train,), steps=steps)
    if kind != ALONE:
        settings = replace(settings, distill=STARTER, distill_weight=weight, distill_context=kind == IN_CONTEXT)
    workshop.trained(settings)
    small = workshop.model(name)
    scored_texts = core.scored_texts(corpus.heldout, given.documents)
    settled = LossSettings(small.backbone.context)
    losses = measure([core.backbone, small.backbone], core.process, scored_texts, GRID, settled)
    best = best_weight(losses)
    line = {
        "sums": losses.sums[:, -1].round(3).tolist(),
        "tokens": losses.tokens.tolist(),
        "core alone": round(float(losses.nats_per_token()[0]), 4),
        "both": f"{losses.nats_per_token()[losses.place(best)]:.4f} at {best:g}",
    }
    if corpus.facts:
        os.environ["SSD_HOME"] = str(workshop.home)  # where the demo looks for models
        line["told apart"] = demo.told_apart(demo.recall(demo.open_trio(core.name, name), corpus.facts))
    return line


# The tables


def report(found: Sequence[Line]) -> str:
    """What a step costs, then a table for each corpus."""
    costs = next(line["costs"] for line in found if "costs" in line)
    rows = [[kind, ms, ms / costs[ALONE]] for kind, ms in costs.items()]
    first = "A step's processor time, in milliseconds and over that without a teacher:"
    tables = [_table(corpus, group, costs) for (corpus,), group in grouped(found, "corpus").items()]
    return "\n\n".join([first, table(["step", "ms", "times"], rows), *tables])


def _table(corpus: str, group: Sequence[Line], costs: Mapping[str, float]) -> str:
    tokens = group[0]["tokens"]
    title = f"{len(tokens)} held-out documents, {sum(tokens):,} tokens; the core alone {group[0]['core alone']:.4f}"
    if "told apart" in group[0]:
        title += f", {group[0]['told apart'][demo.CORE]} facts told apart"
    header = ["training", "weight", "steps", "alone", "gain, equal steps", "gain, equal time", "with the core", "facts"]
    return f"## {corpus}\n\n{title}\n\n{table(header, [list(_cells(one, group, costs)) for one in group])}"


def _cells(one: Line, group: Sequence[Line], costs: Mapping[str, float]) -> Iterator[object]:
    alone = {line["steps"]: line for line in group if line["kind"] == ALONE}
    own = Columns(np.array(one["sums"])[:, None], np.array(one["tokens"]))
    yield from (one["kind"], f"{one['weight']:g}", one["steps"], f"{own.loss(0)[0]:.4f}")
    for steps in (one["steps"], round(one["steps"] * costs[one["kind"]] / costs[ALONE])):
        other = Columns(np.array(alone[steps]["sums"])[:, None], own.tokens)
        yield "" if one["kind"] == ALONE else signed(*Columns.side_by_side([own, other]).gain(0, over=1))
    yield one["both"]
    apart = one.get("told apart")
    yield f"{apart[demo.SMALL]} alone, {apart[demo.ENSEMBLE]} with the core" if apart else ""
