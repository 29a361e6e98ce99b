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
from benchmarks.lib.tables import signed, table
from ssdcli.engine.denoiser import Backbone
from ssdcli.engine.ensemble.rules import FLOOR, mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.process import Process
from ssdcli.evaluation.combinations import Combination, Combined, Positions
from ssdcli.evaluation.gating import LossCurves, fit
from ssdcli.evaluation.losses import GRID, LossSettings, measure_combinations
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.registry.store import STARTER
from ssdcli.training.settings import TrainSettings

FEATURES = ("core's entropy", "small's entropy", "core's surest", "small's surest", "KL", "level")
PRIOR = 0.3  # standard deviation of a bias, in nats
_CHUNK = 512  # positions whose predictions are held in float32
_NEWTON, _SCALING = 6, 10  # rounds until temperatures and biases stay
QUICK = {"positions": 1_500, "corpus": []}
LEAN = 2.0  # log odds; fitted slopes are between 2 and 4
CORE, SMALL, CONSTANT, LEVEL, ORACLE = "core alone", "small alone", "constant", "noise level", "oracle"
CORE_ENTROPY, SMALL_ENTROPY, NOISE = (FEATURES.index(name) for name in ("core's entropy", "small's entropy", "level"))


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
    scored_texts = core.scored_texts(corpus.heldout, given.documents)
    return compare(record((core.backbone, small.backbone), core.process, scored_texts, window, given.positions))


# Predictions


@dataclass(frozen=True)
class Predictions:
    """What two members predict at N positions, without self-conditioning.

    log_ps: the core's and the small model's, (N, V) float16 each.
    tokens: (N,) int64, the clean ones.
    levels: (N,) float32.
    due: (N,) float64, the objective's weights.
    documents: (N,) int64.
    """

    log_ps: tuple[Tensor, Tensor]
    tokens: Tensor
    levels: Tensor
    due: Tensor
    documents: Tensor

    def rows(self) -> tuple[Tensor, ...]:
        """The positions, one chunk at a time."""
        chunks: tuple[Tensor, ...] = torch.arange(len(self.tokens)).split(_CHUNK)
        return chunks

    def curves(self, calibrations: tuple[Calibration, Calibration]) -> LossCurves:
        """The losses of the calibrated members' mixtures at all weights."""
        one, other = calibrations
        core, small = self.log_ps
        return LossCurves.joined(
            [LossCurves.of(one(core[rows]), other(small[rows]), self.tokens[rows]) for rows in self.rows()]
        )

    def features(self) -> Tensor:
        """FEATURES of all positions: (N, 6) float64; entropies, log p of the likeliest tokens, KL(small || core), t."""
        columns = torch.cat([_features(*(log_p[rows].float() for log_p in self.log_ps)) for rows in self.rows()])
        return torch.cat([columns, self.levels[:, None]], dim=1).double()


def _features(core: Tensor, small: Tensor) -> Tensor:
    p, q = core.exp(), small.exp()
    entropies = -(p * core).sum(-1), -(q * small).sum(-1)
    return torch.stack([*entropies, core.amax(-1), small.amax(-1), (q * (small - core)).sum(-1)], dim=1)


class _Recorder:
    """A score that keeps a random share of the predictions it is given."""

    def __init__(self, process: Process, share: float, seed: int) -> None:
        self.process, self.share = process, share
        self.generator = torch.Generator().manual_seed(seed)
        self.document = 0
        self.kept: list[tuple[Tensor, ...]] = []

    def __call__(self, combined: Combined, positions: Positions) -> Tensor:
        """Keep some of the positions; the loss is zero everywhere: (N,)."""
        count = len(positions.tokens)
        chosen = (torch.rand(count, generator=self.generator) < self.share).nonzero()[:, 0]
        here = positions.rows(chosen)
        due = self.process.loss_weights(here.shown, here.levels).double()
        log_ps = [log_p[chosen].float().clamp(min=FLOOR).half() for log_p in combined.log_ps]
        self.kept.append((*log_ps, here.tokens, here.levels, due, torch.full_like(here.tokens, self.document)))
        return torch.zeros(count)


def record(
    members: tuple[Backbone, Backbone],
    process: Process,
    scored_texts: Sequence[ScoredText],
    settings: LossSettings,
    most: int,
) -> Predictions:
    """Run both members on noised held-out text, and keep about `most` of all positions, drawn evenly."""
    total = settings.repeats * sum(sum(scored_text.counted) for scored_text in scored_texts)
    recorder = _Recorder(process, min(1.0, most / total), settings.seed)
    both = Combination(mix, (Constant(0.5), Constant(0.5)), recorder)
    for document, scored_text in enumerate(scored_texts):
        recorder.document = document
        measure_combinations(members, process, [replace(scored_text, noise=document)], [both], settings)
    core, small, tokens, levels, due, documents = (torch.cat(column) for column in zip(*recorder.kept, strict=True))
    return Predictions((core, small), tokens, levels, due, documents)


# Calibration of a member


@dataclass(frozen=True)
class Calibration:
    """A change to a member's log p: divided by a temperature, a bias (V,) added, renormalised."""

    temperature: float
    bias: Tensor

    def __call__(self, log_p: Tensor) -> Tensor:
        """Log p (N, V) to (N, V) float32."""
        return torch.log_softmax(log_p.float() / self.temperature + self.bias, dim=-1)


def untouched(vocabulary: int) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration(1.0, torch.zeros(vocabulary))


def heated(predictions: Predictions, member: int, chosen: Tensor) -> Calibration:
    """The temperature at which a member's cross-entropy of the chosen positions is least (Guo et al., 2017)."""
    log_p, inverse = predictions.log_ps[member], 1.0
    for _ in range(_NEWTON):
        slope, curvature = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for rows in chosen.split(_CHUNK):
            said, due = log_p[rows].float(), predictions.due[rows]
            p = torch.softmax(said * inverse, dim=-1)
            mean = (p * said).sum(-1)
            slope += (due * (mean - _own(said, predictions.tokens[rows]))).sum()
            curvature += (due * ((p * said * said).sum(-1) - mean**2)).sum()
        inverse -= float(slope / curvature)
    return Calibration(1 / inverse, torch.zeros(log_p.shape[1]))


def biased(predictions: Predictions, member: int, chosen: Tensor, start: Calibration) -> Calibration:
    """A bias for each token as well (after LITCAB, Liu et al., 2024), normal about 0 a priori: rare tokens keep theirs.

    Newton's method with the diagonal of the Hessian: a token's expected count is brought to its observed count.
    """
    log_p, bias = predictions.log_ps[member], start.bias.double()
    due = predictions.due[chosen]
    seen = torch.zeros_like(bias).index_add_(0, predictions.tokens[chosen], due)
    for _ in range(_SCALING):
        now, expected = Calibration(start.temperature, bias.float()), torch.zeros_like(bias)
        for rows in chosen.split(_CHUNK):
            expected += (predictions.due[rows].float() @ now(log_p[rows]).exp()).double()
        bias -= (expected - seen + bias / PRIOR**2) / (expected + 1 / PRIOR**2)
    return Calibration(start.temperature, bias.float())


def _own(values: Tensor, tokens: Tensor) -> Tensor:
    """Of one token at each position: values (N, V), tokens (N,) to (N,)."""
    return values.gather(-1, tokens[:, None])[:, 0]


# The comparison

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
