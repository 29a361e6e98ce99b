"""Beside a causal core, does a small model collaborate better as block diffusion or as a causal twin?

    python -m benchmarks twins --corpus TRAIN HELDOUT --minutes 4 --out FILE
    python -m benchmarks twins --table FILE

Four small models learn the bundled notebook and each corpus for equal minutes of the processor: `ssd`'s block-causal
diffusion LM with embeddings of its own; its causal twin (`--causal`); a side network on the core's hidden states, which
predicts the next token alone; and block diffusion that reads them, whose canvas of 16 tokens stands behind an anchor.
The last one is measured in two ways: with the anchor at the last known token, and as blocks on a grid, which see the
core's states up to their beginning. What the core needs to read the notes is part of the time.

Exact code lengths from the left of the first 256 tokens of each held-out document; constant weights and gates are
fitted to other documents (cross-validation). True gaps of 1 to 8 tokens by constant weights fitted to other gaps, with
the left side in view or both; gaps filled greedily, their length known, and the core's nats of the fills and of what
is behind them. Facts of the notebook, continued greedily. Drafts: passes of the core for 48 greedy tokens that both
write after the beginnings of held-out documents, if the small model drafts (up to 8 tokens) and the core verifies.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.brief_training import Budget, Notes
from benchmarks.lib.canvas import Core
from benchmarks.lib.columns import Columns, collaborate
from benchmarks.lib.corpora import Corpus, corpora_of, encode, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.tables import signed, table
from benchmarks.lib.timing import least, processor_seconds
from benchmarks.lib.twins import (
    DiffusionMember,
    Member,
    ReadingMember,
    TwinMember,
    train_reader,
)
from benchmarks.lib.word_gaps import gaps_of
from ssdcli.api import load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.joint_gate import Observations, fit_joint_gate
from ssdcli.registry.store import SMOLLM2
from ssdcli.text.codec import Codec
from ssdcli.training.settings import TrainSettings

QUICK = {"minutes": 0.3, "documents": 4, "gaps": 8, "facts": 4, "texts": 2}
DIFFUSION, TWIN = "block diffusion, own embeddings", "causal twin, own embeddings"
SIDE, CANVAS = "causal twin, reads the core", "block diffusion, reads the core"
GRID = "the same on a grid of blocks"
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_MEASURED, _BEHIND = 256, 24
_DRAFT, _WRITTEN, _BEFORE = 8, 48, 48
_ANSWER = 16  # tokens after a fact's beginning
_RATE = 1e-3


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--minutes", type=float, default=3.0, help="of processor time for each small model")
    parser.add_argument("--documents", type=int, default=40, help="held-out documents of each corpus")
    parser.add_argument("--gaps", type=int, default=40)
    parser.add_argument("--facts", type=int, default=40)
    parser.add_argument("--texts", type=int, default=8, help="that are drafted")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus and small model."""
    writer = load(given.core)
    core, codec = Core(_causal(writer.members[0].model.denoiser)), writer.members[0].model.codec
    opening = writer.members[0].model.format.opening
    for corpus in corpora_of(given):
        bench = Bench(core, codec, opening, corpus, given, workshop)
        for name, make in bench.models.items():
            workshop.piece({"corpus": corpus.name, "small": name}, partial(bench.measured, name, make))


def _causal(denoiser: object) -> CausalDenoiser:
    assert isinstance(denoiser, CausalDenoiser)
    return denoiser


class Bench:
    """A core and a corpus."""

    def __init__(
        self, core: Core, codec: Codec, opening: int | None, corpus: Corpus, given: Namespace, workshop: Workshop
    ) -> None:
        """Read the corpus."""
        self.core, self.codec, self.corpus, self.given, self.workshop = core, codec, corpus, given, workshop
        self.opening = opening or 0
        self.notes = Notes.split([[self.opening, *note] for note in encode(read_texts(corpus.train), codec.tokenizer)])
        texts = read_texts(corpus.heldout)[: given.documents]
        self.texts = [[self.opening, *ids[:_MEASURED]] for ids in encode(texts, codec.tokenizer)]
        self.gaps = gaps_of(texts, codec, given.gaps)
        self.budget = Budget(60 * given.minutes, _RATE)
        self.models: Mapping[str, Callable[[], tuple[dict[str, Member], int]]] = {
            DIFFUSION: self.diffusion,
            TWIN: self.twin,
            SIDE: partial(self.reader, SIDE, False),
            CANVAS: partial(self.reader, CANVAS, True),
        }

    # Training

    def _own(self, kind: str, *, causal: bool) -> tuple[Model, int]:
        """A model with embeddings of its own, and its steps."""
        name = f"{self.corpus.name}-{kind}"
        settings = TrainSettings(data=(self.corpus.train,), core=self.given.core, name=name, **self.corpus.changes)
        settings = replace(settings, memory=False, reads_core=False, minutes=self.given.minutes, causal=causal)
        self.workshop.model(self.given.core)
        steps: int = self.workshop.trained(settings)["steps"]
        return self.workshop.model(name), steps

    def diffusion(self) -> tuple[dict[str, Member], int]:
        """`ssd`'s own diffusion LM."""
        model, steps = self._own("diffusion", causal=False)
        return {DIFFUSION: DiffusionMember(model.denoiser)}, steps

    def twin(self) -> tuple[dict[str, Member], int]:
        """Its causal twin."""
        model, steps = self._own("causal", causal=True)
        return {TWIN: TwinMember(_causal(model.denoiser))}, steps

    def reader(self, name: str, canvas: bool) -> tuple[dict[str, Member], int]:
        """A small model that reads the core."""
        member, steps = train_reader(self.core, self.notes, self.budget, canvas)
        found: dict[str, Member] = {name: member}
        return found | ({GRID: ReadingMember(self.core, member.network, grid=True)} if canvas else {}), steps

    # Measuring

    def measured(self, name: str, make: Callable[[], tuple[dict[str, Member], int]]) -> Line:
        """Train a model, and measure it beside the core."""
        began = processor_seconds()
        members, steps = make()
        line: dict[str, object] = {"steps": steps, "minutes": (processor_seconds() - began) / 60}
        with torch.no_grad():
            line["left"] = {way: self.from_left(member) for way, member in members.items()}
            member = members[name]
            line["gaps"] = self.true_gaps(member)
            weight = self.weight_of(line["left"][name])  # type: ignore[index]
            line["weight"] = weight
            line["fills"] = {"core": self.filled(self.core, 1.0), "both": self.filled(member, weight)}
            if self.corpus.facts:
                line["said"] = self.said(member, weight)
            line["drafts"] = self.drafted(member, weight)
            line["milliseconds"] = self.cost(member)
        return line

    def from_left(self, small: Member) -> Line:
        """Log p of each token and the entropies there by core and small model, and the gate of both."""
        log_p, entropies, texts = [], [], []
        for number, text in enumerate(self.texts):
            own = torch.tensor(text[1:])[:, None]
            both = [member.each(text[:-1]).float() for member in (self.core, small)]
            log_p.append(torch.cat([said.gather(-1, own) for said in both], dim=1).double())
            entropies.append(torch.stack([entropy(said) for said in both], dim=1).double())
            texts.append(torch.full((len(own),), number))
        seen = Observations(("core", "small"), torch.cat(log_p), torch.cat(entropies), torch.cat(texts))
        fitted = fit_joint_gate(seen)
        alone = [seen.by_text(-seen.log_p[:, place]) for place in (0, 1)]
        sums = np.stack([*alone, fitted.constant, fitted.gated, fitted.oracle], axis=1)
        weights = [round(weight, 3) for weight in fitted.gate.weights]
        sizes = [len(text) - 1 for text in self.texts]
        bits = [len(self.codec.decode(text[1:]).encode()) for text in self.texts]
        return {"sums": sums.round(4).tolist(), "tokens": sizes, "bytes": bits, "weights": weights}

    def weight_of(self, line: Line) -> float:
        """The small model's constant weight."""
        weight: float = line["weights"][1]
        return weight

    def true_gaps(self, small: Member) -> Line:
        """Nats of the true gaps by weight, with the left side in view and with both."""
        found: dict[str, list[float]] = {}
        for gap in self.gaps:
            own, before = torch.tensor(gap.own)[:, None], [self.opening, *gap.before]
            core = self.core.in_gap(before, gap.own, ())
            for side, behind in (("left", ()), ("both", gap.behind)):
                said = small.in_gap(before, gap.own, behind)
                for weight in _WEIGHTS:
                    nats = -_both(core, said, weight).gather(-1, own).sum()
                    found.setdefault(f"{side} {weight:g}", []).append(round(float(nats), 4))
        return {"losses": found, "tokens": [len(gap.own) for gap in self.gaps]}

    def filled(self, small: Member, weight: float) -> Line:
        """The core's nats of greedy fills of the right length and of the text behind them."""
        exact, own, behind = [], [], []
        for gap in self.gaps:
            before, fill = [self.opening, *gap.before], list[int]()
            for place in range(len(gap.own)):
                rest = [*fill, *[0] * (len(gap.own) - place)]  # those to its right are hidden from it
                core, own_said = (member.in_gap(before, rest, gap.behind)[place] for member in (self.core, small))
                fill.append(int(_both(core, own_said, weight).argmax()))
            exact.append(tuple(fill) == gap.own)
            nats = self._core_nats(before, [*fill, *gap.behind[:_BEHIND]])
            own.append(round(float(nats[: len(fill)].sum()), 4))
            behind.append(round(float(nats[len(fill) :].sum()), 4))
        return {"exact": exact, "own": own, "behind": behind}

    def _core_nats(self, before: Sequence[int], own: Sequence[int]) -> Tensor:
        said = self.core.each([*before, *own])[len(before) - 1 : -1]
        return -said.gather(-1, torch.tensor(own)[:, None])[:, 0]

    def said(self, small: Member, weight: float) -> list[bool]:
        """Which facts both say."""
        found = []
        for fact in self.corpus.facts[: self.given.facts]:
            text = self.written([self.opening, *self.codec.encode(fact.prompt)], small, weight, _ANSWER)
            found.append(fact.answer.casefold() in " ".join(self.codec.decode(text).split()).casefold())
        return found

    def written(self, before: Sequence[int], small: Member, weight: float, count: int) -> list[int]:
        """What both write greedily."""
        text = list(before)
        for _ in range(count):
            text.append(int(_both(self.core.next(text), small.next(text), weight).argmax()))
        return text[len(before) :]

    def drafted(self, small: Member, weight: float) -> Line:
        """The core's passes for what both write, if the small model drafts."""
        passes = tokens = 0
        for text in [text for text in self.texts if len(text) > _BEFORE][: self.given.texts]:
            before = text[: 1 + _BEFORE]
            own = self.written(before, small, weight, _WRITTEN)
            place = 0
            while place < len(own):
                draft = small.draft([*before, *own[:place]], min(_DRAFT, len(own) - place))
                right = [one == other for one, other in zip(draft, own[place:], strict=False)]
                place += 1 + (right.index(False) if False in right else len(right))
                passes += 1
            tokens += len(own)
        return {"passes": passes, "tokens": tokens}

    def cost(self, small: Member) -> Mapping[str, float]:
        """Milliseconds of the next token after a text of 64 tokens that is read anew, and of a draft there."""
        text = next(text for text in self.texts if len(text) > 64)[:64]
        return least({"next": lambda: small.next(text), "draft": lambda: small.draft(text, _DRAFT)}, 5)


def _both(core: Tensor, small: Tensor, weight: float) -> Tensor:
    """The average of two predictions."""
    if weight in (0.0, 1.0):
        return small if weight else core
    return average([core.float(), small.float()], [1 - weight, weight])


# The tables


def report(found: Sequence[Line]) -> str:
    """For each corpus a table of code lengths and one of gaps, facts and drafts."""
    corpora: dict[str, list[Line]] = {}
    for line in found:
        if "small" in line:
            corpora.setdefault(line["corpus"], []).append(line)
    return "\n\n".join(f"## {name}\n\n{_left(lines)}\n\n{_rest(lines)}" for name, lines in corpora.items())


def _left(lines: Sequence[Line]) -> str:
    rows: list[list[object]] = []
    for line in lines:
        for name, way in line["left"].items():
            columns = Columns(np.array(way["sums"]), np.array(way["tokens"]))
            better = min((0, 1), key=lambda place: columns.loss(place)[0])
            bits = sum(row[3] for row in way["sums"]) / math.log(2) / sum(way["bytes"])
            losses = [f"{columns.loss(place)[0]:.3f}" for place in range(5)]
            gains = [signed(*columns.gain(place, over=better)) for place in (2, 3)]
            rows.append([name, line["steps"], *losses, f"{bits:.3f}", *gains])
    header = ["small model", "steps", "core", "alone", "constant weights", "gated", "oracle", "gated, bits per byte"]
    return table([*header, "gain over the better, constant", "gated"], rows)


def _rest(lines: Sequence[Line]) -> str:
    rows = [[line["small"], f"{line['weight']:g}", *_gaps(line), *_writes(line)] for line in lines]
    header = [
        "small model",
        "weight",
        "true gaps: core",
        "and small, left",
        "both sides",
        "fills: core's nats",
        "both's",
    ]
    return table([*header, "own", "facts said", "passes a token", "ms, next token", "ms, draft"], rows)


def _gaps(line: Line) -> Iterator[str]:
    tokens = np.array(line["gaps"]["tokens"])
    for side in ("left", "both"):
        sums = np.array([line["gaps"]["losses"][f"{side} {weight:g}"] for weight in _WEIGHTS]).T
        found, _ = collaborate(Columns(sums, tokens), 0, len(_WEIGHTS) - 1, range(len(_WEIGHTS)))
        if side == "left":
            yield f"{found.core:.3f}"
        yield f"{found.both:.3f}"


def _writes(line: Line) -> Iterator[str]:
    fills = line["fills"]
    for name in ("core", "both"):
        total = np.array(fills[name]["own"]) + np.array(fills[name]["behind"])
        yield f"{total.mean():.2f}"
    yield f"{sum(fills['both']['exact'])} of {len(fills['both']['exact'])}"
    yield f"{sum(line['said'])} of {len(line['said'])}" if "said" in line else ""
    yield f"{line['drafts']['passes'] / line['drafts']['tokens']:.2f}"
    yield from (f"{line['milliseconds'][name]:.1f}" for name in ("next", "draft"))
