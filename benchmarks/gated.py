"""Tells whether weights by position and step, or calibrated members, are better than the best constant weight.

    python -m benchmarks gated --corpus TRAIN HELDOUT --minutes 10 --seeds 0 1 2 --out FILE
    python -m benchmarks gated --table FILE

For each corpus and the bundled notebook, a small model is trained for a core, and both predict noised held-out text,
whose predictions are kept. A gate gives the small model's weight at a position: the sigmoid of a linear function of the
noise level and of what the members' own predictions there look like, or a ratio of entropies that has nothing to fit.
"Leaning" is the constant weight as that at t = 1/2, with a slope that is not fitted. The members are mixed by it as
they are, after each was given a temperature, and after each was given a bias for each token of the vocabulary, too. All
numbers, the constant weight's included, are fitted on one half of the documents and counted on the other, both ways;
standard errors are of differences, paired by document. Self-conditioning is off. The oracle, which knows the token, is
no method: it bounds what any gate could reach.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import (
    Corpus,
    Line,
    Workshop,
    corpora_of,
    heading,
    lines,
    parser_of,
    passages_of,
    process_of,
    tokenizer_of,
)
from benchmarks.lib.gates import FEATURES, Calibration, Predictions, biased, heated, record, untouched
from benchmarks.lib.tables import table
from benchmarks.lib.writing import borrowed
from ssdcli.evaluation.gating import fit
from ssdcli.evaluation.losses import LossSettings
from ssdcli.evaluation.sweep import GRID
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

POSITIONS, QUICK_POSITIONS, QUICK_STEPS = 16_000, 1_500, 60
LEAN = 2.0  # log odds; those that are fitted are between 2 and 4
CORE, SMALL, CONSTANT, LEVEL, ORACLE = "core alone", "small alone", "constant", "noise level", "oracle"
CORE_ENTROPY, SMALL_ENTROPY, NOISE = (FEATURES.index(name) for name in ("core's entropy", "small's entropy", "level"))

Pair = tuple[Calibration, Calibration]
Columned = Callable[[Tensor], Tensor]

# What gates are linear in, after a constant: the features (N, 6) to columns (N, K).
GATES: Mapping[str, Columned] = {
    "difference of entropies": lambda f: f[:, [CORE_ENTROPY]] - f[:, [SMALL_ENTROPY]],
    "both entropies": lambda f: f[:, [CORE_ENTROPY, SMALL_ENTROPY]],
    LEVEL: lambda f: f[:, [NOISE]],
    "noise level, its square and cube": lambda f: f[:, [NOISE]] ** torch.tensor([1.0, 2.0, 3.0]),
    "noise level and both entropies": lambda f: f[:, [NOISE, CORE_ENTROPY, SMALL_ENTROPY]],
    "all features": lambda f: f,
}


def main() -> None:
    """Do what is missing, then print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--core", default=STARTER, help="of the user's registry")
    parser.add_argument("--positions", type=int, default=POSITIONS, help="predictions that are kept, 32 KB each")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.positions = QUICK_POSITIONS
    path = arguments.table
    if path is None:
        workshop = Workshop(arguments)
        borrowed(workshop, arguments.core)
        for corpus in [Corpus.notebook()] if arguments.quick else corpora_of(arguments):
            for seed in arguments.seeds:
                work(workshop, corpus, seed, arguments)
        path = workshop.out
    found = lines(path)
    corpora = dict.fromkeys(line["corpus"] for line in found if "ways" in line)
    print("\n\n".join([heading(found), *(report(corpus, found) for corpus in corpora)]))


def work(workshop: Workshop, corpus: Corpus, seed: int, arguments: Namespace) -> None:
    """One small model, its predictions beside the core's, and what every gate makes of them."""
    name = f"{corpus.name}-{seed}"
    settings = replace(TrainSettings(data=(corpus.train,), core=arguments.core, name=name, seed=seed), **corpus.changes)
    length = {"steps": QUICK_STEPS, "size": "nano"} if arguments.quick else {"minutes": arguments.minutes}

    def made() -> Line:
        workshop.trained(replace(settings, **length))
        return compare(predicted(workshop, name, corpus.heldout, arguments))

    workshop.piece({"corpus": corpus.name, "seed": seed}, made)


def predicted(workshop: Workshop, name: str, heldout: str, arguments: Namespace) -> Predictions:
    """What the core and a small model predict of held-out documents."""
    entry = workshop.registry.find(arguments.core)
    backbones = workshop.denoiser(entry.name).backbone, workshop.denoiser(name).backbone
    window = LossSettings(min(backbone.context for backbone in backbones), repeats=2, seed=1)
    passages = passages_of(tokenizer_of(entry), heldout, arguments.documents)
    return record(backbones, process_of(entry), passages, window, arguments.positions)


# The comparison


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
        """A weight at t = 1/2 whose odds grow with the noise level at the same rate on every corpus: (N,)."""
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
    return {"predictions": len(predictions.tokens), "ways": compared(predictions, losses)}


def compared(predictions: Predictions, losses: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Of each way the nats per token, and what it is over each reference, with standard errors paired by document."""
    by_document = partial(np.bincount, predictions.documents.numpy())
    tokens = by_document(predictions.due.numpy())
    sums = {name: by_document((loss * predictions.due).numpy()) for name, loss in losses.items()}
    mean = Columns(np.stack(list(sums.values()), axis=1), tokens).mean
    return {name: [mean(of)[0], *mean(of - sums[CONSTANT]), *mean(of - sums[LEVEL])] for name, of in sums.items()}


def report(corpus: str, found: Sequence[Line]) -> str:
    """The table of a corpus: means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    group = [line for line in found if "ways" in line and line["corpus"] == corpus]
    header = ["way", "nats per token", "over the constant weight", "over the gate by noise level"]
    rows = []
    for name in group[0]["ways"]:
        nats, constant, its, level, error = np.mean([line["ways"][name] for line in group], axis=0)
        rows.append([name, f"{nats:.4f}", f"{constant:+.4f} ± {its:.4f}", f"{level:+.4f} ± {error:.4f}"])
    title = f"{corpus}, {group[0]['predictions']:,} predictions, small models from {len(group)} seeds"
    return f"{title}\n\n{table(header, rows)}"


if __name__ == "__main__":
    main()
