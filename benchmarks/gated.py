"""Are weights by position and step, or calibrated members, better than the best constant weight?

    python -m benchmarks gated --corpus TRAIN HELDOUT --minutes 10 --seeds 0 1 2 --out FILE
    python -m benchmarks gated --table FILE

For the bundled notebook and each given corpus a small model is trained for a core; both predict noised held-out text,
and the predictions are kept. A gate gives the small model's weight at a position: the sigmoid of a linear function of
the noise level and of the members' own predictions there, or a ratio of entropies, which has nothing to fit. "Leaning"
is the constant weight at t = 1/2 with a slope that is not fitted. The members are mixed by it as they are, each with a
temperature, and each with a temperature and a bias for every token of the vocabulary.

All numbers, the constant weight included, are fitted on one half of the documents and counted on the other, both ways;
standard errors are of differences, paired by document. Self-conditioning is off. The oracle, which knows the token, is
no method: it bounds what any gate could reach.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, corpora_of
from benchmarks.lib.experiment import Line, Workshop, add_arguments, budget, grouped, run
from benchmarks.lib.gates import FEATURES, Calibration, Predictions, biased, heated, record, untouched
from benchmarks.lib.tables import signed, table
from ssdcli.evaluation.gating import fit
from ssdcli.evaluation.losses import LossSettings
from ssdcli.evaluation.sweep import GRID
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

QUICK = {"positions": 1_500, "corpus": []}
LEAN = 2.0  # log odds; fitted slopes are between 2 and 4
CORE, SMALL, CONSTANT, LEVEL, ORACLE = "core alone", "small alone", "constant", "noise level", "oracle"
CORE_ENTROPY, SMALL_ENTROPY, NOISE = (FEATURES.index(name) for name in ("core's entropy", "small's entropy", "level"))

Pair = tuple[Calibration, Calibration]

# What gates are linear in, after a constant: the features (N, 6) to columns (N, K).
GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "difference of entropies": lambda f: f[:, [CORE_ENTROPY]] - f[:, [SMALL_ENTROPY]],
    "both entropies": lambda f: f[:, [CORE_ENTROPY, SMALL_ENTROPY]],
    LEVEL: lambda f: f[:, [NOISE]],
    "noise level, its square and cube": lambda f: f[:, [NOISE]] ** torch.tensor([1.0, 2.0, 3.0]),
    "noise level and both entropies": lambda f: f[:, [NOISE, CORE_ENTROPY, SMALL_ENTROPY]],
    "all features": lambda f: f,
}


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    parser.add_argument("--core", default=STARTER, help="of the user's registry")
    parser.add_argument("--positions", type=int, default=16_000, help="predictions that are kept, 32 KB each")


def main(given: Namespace) -> None:
    """Train what is missing, measure what has not been measured yet, and print a table for each corpus."""
    run(given, partial(work, given), report)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus and seed."""
    for corpus, seed in product(corpora_of(given), given.seeds):
        asked = {"corpus": corpus.name, "seed": seed}
        workshop.piece(asked, partial(measured, workshop, corpus, seed, given))


def measured(workshop: Workshop, corpus: Corpus, seed: int, given: Namespace) -> Line:
    """Train a small model, and compare all ways to weigh it on what it and the core predict."""
    name = f"{corpus.name}-{seed}"
    settings = replace(TrainSettings(data=(corpus.train,), core=given.core, name=name, seed=seed), **corpus.changes)
    workshop.trained(replace(settings, **budget(given)))
    core, small = workshop.model(given.core), workshop.model(name)
    window = LossSettings(min(core.backbone.context, small.backbone.context), repeats=2, seed=1)
    passages = core.passages(corpus.heldout, given.documents)
    return compare(record((core.backbone, small.backbone), core.process, passages, window, given.positions))


@dataclass(frozen=True)
class Half:
    """The positions that numbers are fitted on, and what the fits need."""

    predictions: Predictions
    features: Tensor
    chosen: Tensor

    def calibrations(self) -> dict[str, Pair]:
        """Both members as they are, and calibrated in two ways."""
        vocabulary = self.predictions.log_ps[0].shape[1]
        hot = heated(self.predictions, 0, self.chosen), heated(self.predictions, 1, self.chosen)
        both = biased(self.predictions, 0, self.chosen, hot[0]), biased(self.predictions, 1, self.chosen, hot[1])
        return {"": (untouched(vocabulary), untouched(vocabulary)), "temperatures; ": hot, "and biases; ": both}

    def ways(self, calibrations: Pair) -> dict[str, Tensor]:
        """Losses (N,) of all positions in every way."""
        curves = self.predictions.curves(calibrations)
        fitted, due = curves.rows(self.chosen), self.predictions.due[self.chosen]
        best = int((fitted.nats * due[:, None]).sum(0).argmin())
        entropies = self.features[:, [CORE_ENTROPY, SMALL_ENTROPY]]
        found = {
            CORE: curves.nats[:, 0],
            SMALL: curves.nats[:, -1],
            CONSTANT: curves.nats[:, best],
            "constant, leaning": curves.at(self.leaning(GRID[best])),
            "share of the core's entropy": curves.at(entropies[:, 0] / entropies.sum(1)),
        }
        for name, chosen in GATES.items():
            columns = torch.cat([torch.ones(len(self.features), 1), chosen(self.features)], dim=1).double()
            found[name] = curves.at(torch.sigmoid(columns @ fit(fitted, columns[self.chosen], due)))
        return found | {ORACLE: curves.nats.amin(1)}

    def leaning(self, weight: float) -> Tensor:
        """A weight at t = 1/2 whose log odds grow with the noise level at the same rate on every corpus: (N,)."""
        odds = torch.tensor(weight, dtype=torch.float64).clamp(max=max(GRID[:-1])).logit()
        return torch.sigmoid(odds + LEAN * (self.features[:, NOISE] - 0.5))


def compare(predictions: Predictions) -> Line:
    """Every way's loss, and its differences from the constant weight and from the gate by the noise level."""
    features, even = predictions.features(), predictions.documents % 2 == 0
    losses: dict[str, Tensor] = {}
    for fitted in (even, ~even):
        half = Half(predictions, features, fitted.nonzero()[:, 0])
        for calibration, pair in half.calibrations().items():
            for name, loss in half.ways(pair).items():
                kept = losses.setdefault(calibration + name, torch.zeros_like(loss))
                kept[~fitted] = loss[~fitted]
    by_document = partial(np.bincount, predictions.documents.numpy())
    sums = np.stack([by_document((loss * predictions.due).numpy()) for loss in losses.values()], axis=1)
    columns, names = Columns(sums, by_document(predictions.due.numpy())), list(losses)
    references = names.index(CONSTANT), names.index(LEVEL)
    ways = {
        name: [columns.loss(place)[0], *(number for one in references for number in columns.gain(one, over=place))]
        for place, name in enumerate(names)
    }
    return {"predictions": len(predictions.tokens), "ways": ways}


def report(found: Sequence[Line]) -> str:
    """A table for each corpus: means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    header = ["way", "nats per token", "over the constant weight", "over the gate by noise level"]
    tables = []
    for (corpus,), group in grouped(found, "corpus").items():
        rows = []
        for name in group[0]["ways"]:
            nats, constant, its, level, error = np.mean([line["ways"][name] for line in group], axis=0)
            rows.append([name, f"{nats:.4f}", signed(constant, its), signed(level, error)])
        title = f"{corpus}, {group[0]['predictions']:,} predictions, small models from {len(group)} seeds"
        tables.append(f"{title}\n\n{table(header, rows)}")
    return "\n\n".join(tables)
