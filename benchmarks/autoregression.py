"""Do diffusion models gain more from working together than autoregressive ones do? Prints a table for each question.

    python -m benchmarks autoregression GENERAL --core-minutes 60 --corpus TRAIN HELDOUT --minutes 10 --out FILE
    python -m benchmarks autoregression GENERAL --core-tokens 5443584 --corpus TRAIN HELDOUT --out FILE
    python -m benchmarks autoregression --table FILE

Every diffusion model has an autoregressive twin: the same body, embeddings, tokenizer, text, split, optimiser and
schedule, and as much of the processor's time, in which it sees more tokens, since a step costs it less. All cores are
trained here on GENERAL for `--core-minutes`; or else the core is the bundled starter, and its twin sees as many tokens
as that has seen (`--core-tokens`, which its card tells). Small models are trained on the bundled notebook and on the
corpora that are named. Two models mix at one constant weight: log p = (1 - w) log p_core + w log p_small, renormalised.

No training passes over a text more often than `ssd train-small` would, however much time is left.

The cores' autoregressive twin is kept in transformers' format, too, to judge texts in other benchmarks: in the folder
`judge` beside the trained models.

- Likelihood: nats per token of held-out documents. Those of twins are exact; those of masked models are an upper bound,
  and those of simplex models the denoising loss, so that gains compare between families, and losses do not.
- Gaps: nats per token of a block that is missing in a held-out document; twins see only what is left of it.
- Facts: of the notebook's facts, how many are said when their sentences are gone on from greedily, and how many are
  told from all other facts' answers, at the weight that is best for held-out text.

A weight is chosen on one half of the held-out documents for the other. The minutes are the processor's, divided by the
number of threads. Trained models and results are kept beside `--out`, and a run can be interrupted and taken up again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.lib.blends import Voice, measure_blends, steady
from benchmarks.lib.causal import (
    CausalWriter,
    Twin,
    gap_losses,
    passage_losses,
    save_for_transformers,
    train_causal,
    traits_of,
    twin_of,
)
from benchmarks.lib.columns import Columns, collaborate
from benchmarks.lib.experiment import (
    Corpus,
    Line,
    Workshop,
    corpora_of,
    heading,
    lines,
    own_text,
    parser_of,
    passages_of,
    process_of,
    tokenizer_of,
    tokens_a_step,
)
from benchmarks.lib.tables import spread, table
from benchmarks.lib.timing import processor_seconds
from ssdcli.api import choose
from ssdcli.demo import story as demo
from ssdcli.engine.denoiser import Denoiser
from ssdcli.engine.ensemble.rules import mix
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.gaps import Gap, GapSettings, View, choose_gaps
from ssdcli.evaluation.losses import LossSettings, Passage, measure_combinations
from ssdcli.evaluation.sweep import GRID
from ssdcli.generation.types import Blend
from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM
from ssdcli.models.block_diffusion_checkpoint import load_backbone
from ssdcli.registry.store import STARTER, Entry, Registry
from ssdcli.training.settings import TrainSettings

CAUSAL, JUDGE = "autoregression", "judge"
FACT_STEPS = 32
_CORE_BATCH = 2048  # tokens of a step
_MIXTURES = range(1, len(GRID) - 1)
_QUICK = {
    "core_minutes": 0.15,
    "minutes": 0.1,
    "hidden": 64,
    "layers": 2,
    "size": "nano",
    "vocabulary": 1024,
    "documents": 8,
    "repeats": 1,
    "processes": ["simplex"],
}


class Pair(Protocol):
    """A core and a small model of one family."""

    def likelihood(self, passages: Sequence[Passage]) -> Columns:
        """Losses of documents at each weight of the grid."""
        ...

    def gaps(self, gaps: Sequence[Gap], settings: GapSettings) -> Columns:
        """Losses of gaps at each weight of the grid."""
        ...

    def cast(self, weight: float) -> demo.Cast:
        """The two and their ensemble as they write."""
        ...


@dataclass(frozen=True)
class DiffusionPair:
    """Two registered diffusion models."""

    registry: Registry
    core: Entry
    small: Entry
    denoisers: tuple[Denoiser, Denoiser]

    def likelihood(self, passages: Sequence[Passage]) -> Columns:
        """Denoising losses, the NELBO of masked models."""
        models = [denoiser.backbone for denoiser in self.denoisers]
        window = min(model.context for model in models)
        mixtures = [Combination(mix, (Constant(1 - weight), Constant(weight))) for weight in GRID]
        found = measure_combinations(models, process_of(self.core), passages, mixtures, LossSettings(window))
        return Columns.of(found)

    def gaps(self, gaps: Sequence[Gap], settings: GapSettings) -> Columns:
        """Denoising losses with both sides in sight."""
        core, small = (Voice(denoiser, _sides(denoiser.sight)) for denoiser in self.denoisers)
        shares = [{"core": 1 - weight, "small": weight} for weight in GRID]
        blends = [steady({name: share for name, share in pair.items() if share > 0}) for pair in shares]
        return measure_blends({"core": core, "small": small}, blends, gaps, settings)

    def cast(self, weight: float) -> demo.Cast:
        """As `ssd` writes."""
        core, small = self.core.name, self.small.name
        lineups = {
            demo.CORE: choose(core, registry=self.registry),
            demo.SMALL: choose("none", [small], self.registry),
            demo.ENSEMBLE: choose(core, {small: weight}, self.registry, Blend(schedule="constant")),
        }
        return demo.Cast(core, small, weight, {voice: lineup.open() for voice, lineup in lineups.items()})


@dataclass(frozen=True)
class CausalPair:
    """Two twins; name: of the small one."""

    name: str
    models: tuple[BlockDiffusionLM, BlockDiffusionLM]
    tokenizer: Any

    def likelihood(self, passages: Sequence[Passage]) -> Columns:
        """Exact losses."""
        return passage_losses(self.models, passages, GRID, min(model.context for model in self.models))

    def gaps(self, gaps: Sequence[Gap], settings: GapSettings) -> Columns:
        """Exact losses after what is left of the gaps."""
        return gap_losses(self.models, gaps, GRID)

    def cast(self, weight: float) -> demo.Cast:
        """As they write token by token."""
        shares = {demo.CORE: 0.0, demo.SMALL: 1.0, demo.ENSEMBLE: weight}
        writers: dict[str, Any] = {
            voice: CausalWriter(self.models, share, self.tokenizer) for voice, share in shares.items()
        }
        return demo.Cast(CAUSAL, self.name, weight, writers)


@dataclass(frozen=True)
class Bench:
    """The command's arguments, and where its work is done."""

    arguments: argparse.Namespace
    workshop: Workshop

    @property
    def families(self) -> list[str]:
        """The diffusion processes, then the twins."""
        return [*self.arguments.processes, CAUSAL]

    def core(self, family: str) -> Entry:
        """The diffusion core of a process, trained where it has to be."""
        arguments = self.arguments
        if arguments.core_tokens is not None:
            return self.workshop.registry.find(STARTER)
        settings = replace(
            self._core_settings(),
            core="none",
            name=f"core-{family}",
            process=family,
            vocabulary=arguments.vocabulary,
            hidden=arguments.hidden,
            layers=arguments.layers,
            context=arguments.context,
        )
        self.workshop.trained(settings)
        return self.workshop.registry.find(settings.name)

    def small(self, family: str, corpus: Corpus, seed: int) -> Entry:
        """The small diffusion model that a corpus makes for a core."""
        core = self.core(family)
        name = f"{corpus.name}-{family}-{seed}"
        self.workshop.trained(replace(self._small_settings(corpus, seed), core=core.name, name=name))
        return self.workshop.registry.find(name)

    def pair(self, family: str, corpus: Corpus, seed: int) -> Pair:
        """The models of a family, trained where they have to be."""
        if family == CAUSAL:
            return self._twins(corpus, seed)
        core, small = self.core(family), self.small(family, corpus, seed)
        denoisers = (self.workshop.denoiser(core.name), self.workshop.denoiser(small.name))
        return DiffusionPair(self.workshop.registry, core, small, denoisers)

    def _twins(self, corpus: Corpus, seed: int) -> CausalPair:
        """The twins of the first family's models; the small one inherits its core twin's embeddings."""
        first = self.families[0]
        original, small = self.core(first), self.small(first, corpus, seed)
        tokenizer = original.folder / "tokenizer.json"
        settings = self._core_settings()
        if self.arguments.core_tokens is not None:
            steps = round(self.arguments.core_tokens / tokens_a_step(settings, original.manifest.context))
            settings = replace(settings, minutes=None, steps=steps)
        core_twin = Twin(twin_of(load_backbone(original.folder).config), tokenizer)
        core = self._twin("core", settings, core_twin)
        save_for_transformers(core, tokenizer, self.workshop.home / JUDGE)
        small_twin = Twin(twin_of(load_backbone(small.folder).config), tokenizer, traits_of(core))
        name = f"{corpus.name}-{seed}"
        models = (core, self._twin(name, self._small_settings(corpus, seed), small_twin))
        return CausalPair(name, models, tokenizer_of(original))

    def _twin(self, name: str, settings: TrainSettings, twin: Twin) -> BlockDiffusionLM:
        folder = self.workshop.home / CAUSAL / name

        def make() -> Line:
            began = processor_seconds()
            made = train_causal(settings, twin, folder, processor_seconds)
            return {
                "steps": made.steps,
                "tokens": made.tokens,
                "kept": made.kept,
                "minutes": round((processor_seconds() - began) / 60, 2),
                "own loss": round(made.heldout, 4),
            }

        self.workshop.piece({"training": f"{CAUSAL} {name}"}, make)
        return load_backbone(folder)

    def _core_settings(self) -> TrainSettings:
        """As the starter's recipe has them."""
        data = tuple(map(str, self.arguments.general)) or own_text()
        return TrainSettings(data=data, minutes=self.arguments.core_minutes, heldout=0.01, batch_tokens=_CORE_BATCH)

    def _small_settings(self, corpus: Corpus, seed: int) -> TrainSettings:
        arguments = self.arguments
        settings = TrainSettings(data=(corpus.train,), minutes=arguments.minutes, size=arguments.size, seed=seed)
        return replace(settings, **corpus.changes)


def main() -> None:
    """Train what is missing, measure what was not measured yet, and print the tables."""
    arguments = _arguments()
    if arguments.table is not None:
        print(report(lines(arguments.table)))
        return
    bench = Bench(arguments, Workshop(arguments))
    for seed in arguments.seeds:
        for corpus in corpora_of(arguments):
            for family in bench.families:
                asked = {"corpus": corpus.name, "family": family, "seed": seed, "minutes": arguments.minutes}
                bench.workshop.piece(asked, lambda: measured(bench, family, corpus, seed))  # noqa: B023 - made at once
    print(report(lines(bench.workshop.out)))


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("general", nargs="*", type=Path, help="text that the cores learn from")
    cores = parser.add_mutually_exclusive_group()
    cores.add_argument("--core-minutes", type=float, help="of processor time for each core")
    cores.add_argument("--core-tokens", type=int, help="what the bundled starter has seen, which is then the core")
    parser.add_argument(
        "--processes", nargs="+", default=["simplex", "masked"], help="of the families; the starter has its own"
    )
    parser.add_argument("--size", default="micro", help="of the small models")
    parser.add_argument("--hidden", type=int, default=256, help="of the cores, as their --layers and --context")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=4, help="gaps of a document")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(_QUICK, core_tokens=None)
    elif arguments.table is None:
        if not arguments.general or (arguments.core_minutes is None and arguments.core_tokens is None):
            parser.error("name text for the cores, and --core-minutes or --core-tokens")
        if arguments.core_tokens is not None:
            arguments.processes = [Registry().find(STARTER).manifest.process]
    return arguments


def measured(bench: Bench, family: str, corpus: Corpus, seed: int) -> Mapping[str, Any]:
    """What the models of a family gain from each other, on each question."""
    pair = bench.pair(family, corpus, seed)
    tokenizer = tokenizer_of(bench.core(bench.families[0]))
    passages = passages_of(tokenizer, corpus.heldout, bench.arguments.documents)
    columns = pair.likelihood(passages)
    block = bench.core(bench.families[0]).manifest.block_size
    settings = GapSettings(block, block, per_document=bench.arguments.repeats)
    result = {
        "likelihood": _collaboration(columns),
        "gaps": _collaboration(pair.gaps(choose_gaps(passages, settings), settings)),
    }
    return result | ({"facts": _facts(pair, columns, corpus)} if corpus.facts else {})


def _collaboration(columns: Columns) -> Line:
    found, chosen = collaborate(columns, 0, len(GRID) - 1, list(_MIXTURES))
    return {**asdict(found), "relative": found.relative, "weights": [GRID[place] for place in chosen]}


def _facts(pair: Pair, columns: Columns, corpus: Corpus) -> Line:
    """Facts that were said and told apart, at the weight that is best for all held-out documents."""
    weight = GRID[1 + int(columns.sums[:, 1:-1].sum(0).argmin())]
    recalls = demo.recall(pair.cast(weight), corpus.facts, replace(demo.FACTS, steps=FACT_STEPS))
    said, apart = demo.hits(recalls), demo.told_apart(recalls)
    return {"weight": weight, "facts": len(corpus.facts), "said": said, "told apart": apart}


def _sides(sight: int) -> View:
    """What is before a gap, and as much of what is after it as a model is best shown."""
    return lambda gap: Prompt(gap.before, gap.after[:sight], len(gap.canvas))


# Tables


def report(found: list[Line]) -> str:
    """Means over the seeds; standard errors are over documents, and the mean of the seeds'."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in found:
        if "family" in line:
            groups.setdefault((line["corpus"], line["family"]), []).append(line)
    trained = [line for line in found if "training" in line]
    parts = [heading(found), _trainings(trained)]
    parts += [_gains(question, groups) for question in ("likelihood", "gaps")]
    return "\n\n".join([*parts, _fact_table(groups)])


def _trainings(trained: list[Line]) -> str:
    header = ["training", *_TOLD, "weights of step"]
    rows = [[one["training"], *(one[column] for column in _TOLD), one["kept"] or one["steps"]] for one in trained]
    return f"## Trainings\n\n{table(header, rows)}"


def _gains(question: str, groups: Mapping[tuple[str, str], list[Line]]) -> str:
    header = ["corpus", "family", "seeds", "core", "small", "both", "weights", "gain over the better", "±", "percent"]
    rows = [
        [*name, len(group), *_gain_cells([line[question] for line in group])] for name, group in sorted(groups.items())
    ]
    return f"## {question.capitalize()}, nats per token\n\n{table(header, rows)}"


def _gain_cells(parts: list[Line]) -> Iterator[str]:
    for column in ("core", "small", "both"):
        yield f"{sum(part[column] for part in parts) / len(parts):.4f}"
    weights = sorted({weight for part in parts for weight in part["weights"]})
    yield " ".join(f"{weight:g}" for weight in weights)
    for column in ("gain", "error"):
        yield f"{sum(part[column] for part in parts) / len(parts):.4f}"
    yield spread(part["relative"] for part in parts)


def _fact_table(groups: Mapping[tuple[str, str], list[Line]]) -> str:
    header = ["family", "seeds", "weight", "facts", *(f"{w}, {voice}" for w in _ASKED for voice in demo.VOICES)]
    rows = []
    for (_, family), group in sorted(groups.items()):
        parts = [line["facts"] for line in group if "facts" in line]
        if parts:
            weights = " ".join(sorted({f"{part['weight']:g}" for part in parts}))
            counts = (spread(float(part[way][voice]) for part in parts) for way in _ASKED for voice in demo.VOICES)
            rows.append([family, len(parts), weights, parts[0]["facts"], *counts])
    return f"## Facts of the notebook\n\n{table(header, rows)}"


_ASKED = ("said", "told apart")
_TOLD = ("minutes", "own loss", "steps", "tokens")


if __name__ == "__main__":
    main()
