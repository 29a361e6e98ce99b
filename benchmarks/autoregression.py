"""Do diffusion models gain more from working together than autoregressive ones?

    python -m benchmarks autoregression GENERAL --core-minutes 60 --corpus TRAIN HELDOUT --minutes 10 --out FILE
    python -m benchmarks autoregression --table FILE

Every diffusion model has an autoregressive twin: the same body, embeddings, tokenizer, text, split, optimiser and
schedule, and the same processor time, in which it sees more tokens, since its steps cost less. Cores are trained on
GENERAL, small models on the bundled notebook and the given corpora. Two models mix at one constant weight: log p =
(1 - w) log p_core + w log p_small, renormalised. No training passes over a text more often than `ssd train-small`
would, however much time is left. The cores' twin is also kept in transformers' format, in the folder `judge` beside the
trained models, to judge texts in other benchmarks.

- Likelihood: nats per token of held-out documents. Those of twins are exact; those of masked models are an upper bound,
  and those of simplex models the denoising loss, so that gains compare between families, and losses do not.
- Gaps: nats per token of a block that is missing in a held-out document; twins see only the text before it.
- Facts: how many of the notebook's facts are said when their sentences are continued greedily, and how many are told
  apart from all other facts' answers, at the weight that is best for held-out text.

A weight is chosen on one half of the held-out documents for the other.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.lib.causal import (
    CausalWriter,
    Twin,
    gap_losses,
    save_for_transformers,
    text_losses,
    train_causal,
    traits_of,
    twin_of,
)
from benchmarks.lib.columns import Columns, collaborate
from benchmarks.lib.corpora import Corpus, corpora_of, own_text
from benchmarks.lib.experiment import Line, Workshop, add_arguments, gain_of, grouped, weights_of
from benchmarks.lib.gaps import Gap, GapSettings, Viewer, choose_gaps, measure, steady
from benchmarks.lib.models import Model
from benchmarks.lib.tables import mean, spread, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import Blend, choose
from ssdcli.demo import story as demo
from ssdcli.engine.prompt import Prompt
from ssdcli.errors import UsageError
from ssdcli.evaluation.losses import GRID, LossSettings, measure_combinations
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.training.settings import TrainSettings

QUICK = {
    "core_minutes": 0.15,
    "minutes": 0.1,
    "hidden": 64,
    "layers": 2,
    "size": "nano",
    "vocabulary": 1024,
    "documents": 8,
    "repeats": 1,
    "processes": ["simplex"],
    "general": list(map(Path, own_text())),
}
CAUSAL, JUDGE = "autoregression", "judge"
FACT_STEPS = 32
MIXTURES = [steady(("core", "small"), {"core": 1 - weight, "small": weight}) for weight in GRID]


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add_arguments(parser)
    parser.add_argument("general", nargs="*", type=Path, help="text that the cores learn from")
    parser.add_argument("--core-minutes", type=float, help="of processor time for each core")
    parser.add_argument("--processes", nargs="+", default=["simplex", "masked"], help="of the diffusion models")
    parser.add_argument("--size", default="micro", help="of the small models")
    parser.add_argument("--hidden", type=int, default=256, help="of the cores, as their --layers and --context")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=4, help="gaps of a document")


def check(given: Namespace) -> None:
    """UsageError for arguments that leave nothing to measure."""
    if not given.general or given.core_minutes is None:
        raise UsageError("nothing says what the cores learn, and for how long.", "Name text and --core-minutes.")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus, family and seed."""
    bench = Bench(given, workshop)
    for seed, corpus, family in product(given.seeds, corpora_of(given), bench.families):
        asked = {"corpus": corpus.name, "family": family, "seed": seed, "minutes": given.minutes}
        workshop.piece(asked, partial(measured, bench, family, corpus, seed))


# Pairs of models


@dataclass(frozen=True)
class DiffusionPair:
    """Two registered diffusion models, measured at each weight of the grid, which is constant over the levels."""

    core: Model
    small: Model

    def likelihood(self, scored_texts: Sequence[ScoredText]) -> Columns:
        """Denoising losses, which are the NELBO of masked models."""
        models = [self.core.backbone, self.small.backbone]
        settings = LossSettings(min(model.context for model in models))
        return Columns.of(measure_combinations(models, self.core.process, scored_texts, MIXTURES, settings))

    def gaps(self, gaps: Sequence[Gap], settings: GapSettings) -> Columns:
        """Denoising losses with both sides in sight, as much of the right one as a model is best shown."""

        def viewer(model: Model) -> Viewer:
            sight = model.denoiser.sight
            return Viewer(model.denoiser, lambda gap: Prompt(gap.before, gap.after[:sight], len(gap.canvas)))

        return measure([viewer(self.core), viewer(self.small)], MIXTURES, gaps, settings).columns()

    def cast(self, weight: float) -> demo.Trio:
        """As `ssd` writes."""
        core, small, registry = self.core.name, self.small.name, self.core.registry
        lineups = {
            demo.CORE: choose(core, registry=registry),
            demo.SMALL: choose("none", [small], registry),
            demo.ENSEMBLE: choose(core, {small: weight}, registry, Blend(schedule="constant")),
        }
        return demo.Trio(core, small, weight, {voice: lineup.open() for voice, lineup in lineups.items()})


@dataclass(frozen=True)
class CausalPair:
    """Two twins, measured at each weight of the grid; name: of the small one."""

    name: str
    models: tuple[BlockDiffusionLM, BlockDiffusionLM]
    tokenizer: Any

    def likelihood(self, scored_texts: Sequence[ScoredText]) -> Columns:
        """Exact losses."""
        return text_losses(self.models, scored_texts, GRID, min(model.context for model in self.models))

    def gaps(self, gaps: Sequence[Gap], settings: GapSettings) -> Columns:
        """Exact losses after the text before the gaps."""
        return gap_losses(self.models, gaps, GRID)

    def cast(self, weight: float) -> demo.Trio:
        """As they write token by token."""
        shares = {demo.CORE: 0.0, demo.SMALL: 1.0, demo.ENSEMBLE: weight}
        writers: dict[str, Any] = {
            voice: CausalWriter(self.models, share, self.tokenizer) for voice, share in shares.items()
        }
        return demo.Trio(CAUSAL, self.name, weight, writers)


Pair = DiffusionPair | CausalPair


@dataclass(frozen=True)
class Bench:
    """The command's arguments, and where its work is done."""

    given: Namespace
    workshop: Workshop

    @property
    def families(self) -> list[str]:
        """The diffusion processes, then the twins."""
        return [*self.given.processes, CAUSAL]

    def core(self, family: str) -> Model:
        """The diffusion core of a process."""
        given, name = self.given, f"core-{family}"
        shape = {"hidden": given.hidden, "layers": given.layers, "context": given.context}
        settings = replace(self._core_settings(), core="none", name=name, process=family, vocabulary=given.vocabulary)
        self.workshop.trained(replace(settings, **shape))
        return self.workshop.model(name)

    def small(self, family: str, corpus: Corpus, seed: int) -> Model:
        """The small diffusion model that a corpus makes for a core."""
        core, name = self.core(family), f"{corpus.name}-{family}-{seed}"
        self.workshop.trained(replace(self._small_settings(corpus, seed), core=core.name, name=name))
        return self.workshop.model(name)

    def pair(self, family: str, corpus: Corpus, seed: int) -> Pair:
        """The models of a family."""
        if family == CAUSAL:
            return self._twins(corpus, seed)
        return DiffusionPair(self.core(family), self.small(family, corpus, seed))

    def _twins(self, corpus: Corpus, seed: int) -> CausalPair:
        """The twins of the first family's models; the small one inherits its core twin's embeddings."""
        first = self.families[0]
        original, small = self.core(first), self.small(first, corpus, seed)
        tokenizer, name = original.folder / "tokenizer.json", f"{corpus.name}-{seed}"
        core_twin = Twin(twin_of(load_backbone(original.folder).config), tokenizer)
        core = self._twin("core", self._core_settings(), core_twin)
        save_for_transformers(core, tokenizer, self.workshop.home / JUDGE)
        small_twin = Twin(twin_of(load_backbone(small.folder).config), tokenizer, traits_of(core))
        twin = self._twin(name, self._small_settings(corpus, seed), small_twin)
        return CausalPair(name, (core, twin), original.tokenizer)

    def _twin(self, name: str, settings: TrainSettings, twin: Twin) -> BlockDiffusionLM:
        folder = self.workshop.home / CAUSAL / name

        def make() -> Line:
            began = processor_seconds()
            made = train_causal(settings, twin, folder, processor_seconds)
            told = {"steps": made.steps, "tokens": made.tokens, "kept": made.kept, "own loss": round(made.heldout, 4)}
            return told | {"minutes": round((processor_seconds() - began) / 60, 2)}

        self.workshop.piece({"training": f"{CAUSAL} {name}"}, make)
        return load_backbone(folder)

    def _core_settings(self) -> TrainSettings:
        """As the starter's recipe has them."""
        data = tuple(map(str, self.given.general))
        return TrainSettings(data=data, minutes=self.given.core_minutes, heldout=0.01, batch_tokens=2048)

    def _small_settings(self, corpus: Corpus, seed: int) -> TrainSettings:
        settings = TrainSettings(data=(corpus.train,), minutes=self.given.minutes, size=self.given.size, seed=seed)
        return replace(settings, **corpus.changes)


# The work


def measured(bench: Bench, family: str, corpus: Corpus, seed: int) -> Line:
    """What the models of a family gain from each other, on each question."""
    pair, core = bench.pair(family, corpus, seed), bench.core(bench.families[0])
    scored_texts = core.scored_texts(corpus.heldout, bench.given.documents)
    columns, block = pair.likelihood(scored_texts), core.manifest.block_size
    settings = GapSettings(block, block, per_document=bench.given.repeats)
    gaps = pair.gaps(choose_gaps(scored_texts, settings), settings)
    result = {"likelihood": _collaboration(columns), "gaps": _collaboration(gaps)}
    return result | ({"facts": _facts(pair, columns, corpus)} if corpus.facts else {})


def _collaboration(columns: Columns) -> Line:
    found, chosen = collaborate(columns, 0, len(GRID) - 1, range(1, len(GRID) - 1))
    return {**asdict(found), "relative": found.relative, "weights": [GRID[place] for place in chosen]}


def _facts(pair: Pair, columns: Columns, corpus: Corpus) -> Line:
    """Facts that were said and told apart, at the weight that is best for all held-out documents."""
    weight = GRID[1 + int(columns.sums[:, 1:-1].sum(0).argmin())]
    recalls = demo.recall(pair.cast(weight), corpus.facts, replace(demo.FACTS, steps=FACT_STEPS))
    said, apart = demo.hits(recalls), demo.told_apart(recalls)
    return {"weight": weight, "facts": len(corpus.facts), "said": said, "told apart": apart}


# The tables


def report(found: Sequence[Line]) -> str:
    """Means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups = grouped(found, "corpus", "family")
    columns = ("minutes", "own loss", "steps", "tokens")
    rows = [
        [one["training"], *(one[column] for column in columns), one["kept"] or one["steps"]]
        for one in found
        if "training" in one
    ]
    trainings = f"## Trainings\n\n{table(['training', *columns, 'weights of step'], rows)}"
    return "\n\n".join([trainings, *(_gains(question, groups) for question in ("likelihood", "gaps")), _told(groups)])


def _gains(question: str, groups: Mapping[tuple[str, ...], list[Line]]) -> str:
    header = ["corpus", "family", "seeds", "core", "small", "both", "weights", "gain over the better", "percent"]
    rows = [[*name, len(group), *_gain_cells([line[question] for line in group])] for name, group in groups.items()]
    return f"## {question.capitalize()}, nats per token\n\n{table(header, rows)}"


def _gain_cells(parts: Sequence[Line]) -> Iterator[str]:
    for column in ("core", "small", "both"):
        yield f"{mean(part[column] for part in parts):.4f}"
    yield from (weights_of(parts), gain_of(parts))
    yield spread(part["relative"] for part in parts)


def _told(groups: Mapping[tuple[str, ...], list[Line]]) -> str:
    asked = list(product(("said", "told apart"), demo.AUTHORS))
    rows = []
    for (_, family), group in groups.items():
        parts = [line["facts"] for line in group if "facts" in line]
        if parts:
            weights = " ".join(sorted({f"{part['weight']:g}" for part in parts}))
            counts = (spread(part[way][voice] for part in parts) for way, voice in asked)
            rows.append([family, len(parts), weights, parts[0]["facts"], *counts])
    header = ["family", "seeds", "weight", "facts", *(f"{way}, {voice}" for way, voice in asked)]
    return f"## Facts of the notebook\n\n{table(header, rows)}"
