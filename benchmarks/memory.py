"""What is the user's own text worth beside a causal core, as a memory, and how should both be weighed?

    python -m benchmarks memory --corpus TRAIN HELDOUT [HELDOUT ...] --documents 40 --out FILE
    python -m benchmarks memory --parts members --small til NAME --corpus TRAIN HELDOUT --out FILE
    python -m benchmarks memory --table FILE

For the bundled notebook and each given corpus, exact code lengths of the first 256 tokens of each held-out document,
read from the left. The memory is that of all training notes. Weights and gates are fitted on the first 256 tokens of
training notes that were held back, beside a memory that lacks them and their near-duplicates: 100 notes drawn at
random, or all notes in five folds where there are fewer than 200. Nothing is fitted on the documents that are counted.
The oracle, which knows the token, is no method: it bounds what any gate could reach.

Parts: `members` (the gate is that of `ssd train-small`; small models and adapters of the user's registry take part with
the gates of their own training; of several, as of several seeds, the mean and the range are shown, too), `public` (the
gate of the last corpus, without a prior: the source of PUBLIC_GATE), `cost` (the time of a look-up and of its share in
combining beside a core's pass over one token, and of building).
"""

from __future__ import annotations

import math
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import cycle, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.beside_memory import (
    Ids,
    Seen,
    Side,
    causal,
    fitted,
    fitting_side,
    heldout_side,
    memory_denoiser,
    notes_of,
    remembered_from_the_left,
    said_from_the_left,
    seen_of,
)
from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.spreads import spreads
from benchmarks.lib.tables import signed, table
from benchmarks.lib.timing import least
from ssdcli.engine.ensemble.ensemble import Ensemble
from ssdcli.engine.ensemble.gate import PUBLIC_GATE, AverageGate
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import GatedAverage, gate_features
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.joint_gate import constant_nats, fit_joint_gate, gated_nats
from ssdcli.models.memory.text_index import Index
from ssdcli.registry.store import SMOLLM2

MEMBERS, PUBLIC, COST = PARTS = ("members", "public", "cost")
CORE = "the core"
REFERENCES = (CORE, "core and memory, constant weights")
_TURNS = 40  # of the timing
_LAST = 512  # tokens before the one that is timed


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs="+", action="append", default=[], metavar="FILE", help="TRAIN HELDOUT ...")
    parser.add_argument("--no-notebook", action="store_true", help="leave the bundled notebook out")
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents only")
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--small", nargs=2, action="append", default=[], metavar=("CORPUS", "NAME"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus, its held-out files, and each part."""
    core = workshop.model(given.core)
    for corpus in corpora_of(given):
        bench = Bench(workshop, core, corpus, given)
        for part in given.parts:
            bench.work(part)


def corpora_of(given: Namespace) -> list[tuple[str, str, tuple[str, ...]]]:
    """The name, the notes and the held-out files of the notebook and of each corpus."""
    books = [] if given.no_notebook else [Corpus.notebook()]
    corpora = [(book.name, book.train, (book.heldout,)) for book in books]
    return corpora + [(_stem(train), train, tuple(heldout)) for train, *heldout in given.corpus]


def _stem(path: str) -> str:
    """The name of a file up to its first dot."""
    return Path(path).name.partition(".")[0]


@dataclass(frozen=True)
class Bench:
    """A causal core, a corpus (its name, its notes, its held-out files), and where results are kept."""

    workshop: Workshop
    core: Model
    corpus: tuple[str, str, tuple[str, ...]]
    given: Namespace

    @cached_property
    def notes(self) -> list[list[int]]:
        """The training notes."""
        return notes_of(self.corpus[1], self.core)

    @cached_property
    def fitting(self) -> Side:
        """The notes that are held back."""
        return fitting_side(f"{self.corpus[0]}.fitting", self.notes, self.core)

    @cached_property
    def fitted_on(self) -> Seen:
        """What core and memory say of them."""
        return self.seen(self.fitting)

    def seen(self, side: Side) -> Seen:
        """What core and memory say of a side, all of it."""
        return seen_of(side, self.core, self.workshop.out.with_suffix(".states"))

    def test(self, path: str) -> Side:
        """The documents of a held-out file."""
        name = self.corpus[0] if Path(path).is_dir() else Path(path).name.removesuffix(".gz").removesuffix(".jsonl")
        texts = notes_of(path, self.core)[: self.given.documents]
        return heldout_side(name, self.notes, texts, self.core)

    def work(self, part: str) -> None:
        """Make the pieces of a part that are missing."""
        asked: Line = {"part": part, "corpus": self.corpus[0]}
        if part != MEMBERS:
            self.workshop.piece(asked, self.public if part == PUBLIC else self.cost)
            return
        named = [name for corpus, name in self.given.small if corpus == self.corpus[0]]
        for path, small in product(self.corpus[2], named or [None]):
            self.workshop.piece(asked | {"heldout": path, "small": small}, partial(self.members, path, small))

    # Members

    def members(self, path: str, small: str | None) -> Line:
        """Core, memory and perhaps a small model: alone, at constant weights, gated, and the oracle."""
        side = self.test(path)
        seen = self.seen(side)
        found = self._pair(side, seen)
        if small is not None:
            found |= self._three(side, seen, self.workshop.model(small))
        return {
            "side": side.name,
            "tokens": [len(text) for text in side.texts],
            "bytes": list(side.bytes),
            "sums": {name: side.by_text(nats) for name, (nats, _) in found.items()},
            "fitted": {name: numbers for name, (_, numbers) in found.items() if numbers},
        }

    def _pair(self, side: Side, seen: Seen) -> dict[str, tuple[Tensor, str]]:
        own = seen.observations(side)
        best = fit_joint_gate(self.fitted_on.observations(self.fitting)).gate
        chosen = "chosen" if best.is_default else "not chosen"
        return {
            CORE: (-own.log_p[:, 0], ""),
            "the memory": (-own.log_p[:, 1], ""),
            "core and memory, constant weights": (constant_nats(best.weights, own), _shares(best)),
            "core and memory, gated": (gated_nats(best, own), f"{_numbers(best.coefficients)}; {chosen}"),
            "core and memory, PUBLIC_GATE": (gated_nats(PUBLIC_GATE, own), _numbers(PUBLIC_GATE.coefficients)),
            "core and memory, oracle": (-own.log_p.amax(1), ""),
        }

    def _three(self, side: Side, seen: Seen, small: Model) -> dict[str, tuple[Tensor, str]]:
        """With a small model and its own memory, by the gates of its own training."""
        texts = [[self.core.manifest.begin or 0, *text] for text in side.texts]
        parts = [
            torch.cat([says(small, text) for text in texts]) for says in (said_from_the_left, remembered_from_the_left)
        ]
        own = seen.observations(side)
        log_p, entropies = (
            torch.stack([of[:, 0], *(part[:, place] for part in parts)], dim=1)
            for place, of in enumerate((own.log_p, own.entropies))
        )
        every = replace(own, members=("core", "small", "memory"), log_p=log_p, entropies=entropies)
        kind = "small model"
        if small.manifest.tunes_core:  # in the core's place
            kind, every = "adapter", replace(every.of(("small", "memory")), members=("core", "memory"))
        found = {f"the {kind}": (-log_p[:, 1], ""), f"memory of the {kind}": (-log_p[:, 2], "")}
        for gate in small.manifest.joint_gates:
            *before, last = (
                "adapter" if small.manifest.tunes_core and role == "core" else role for role in gate.members
            )
            whose = "" if "small" in before else "its " * (last == "memory")
            name, these = f"{', '.join(before)} and {whose}{last}", every.of(gate.members)
            if len(gate.members) > 1:
                found[f"{name}, constant weights"] = constant_nats(gate.weights, these), _shares(gate)
                found[f"{name}, gated"] = gated_nats(gate, these), _numbers(gate.coefficients)
                found[f"{name}, oracle"] = -these.log_p.amax(1), ""
        return found

    # The public gate

    def public(self) -> Line:
        """A gate fitted to all positions that were held back, without a prior that matters."""
        seen = self.fitted_on
        coefficients = fitted(seen.log_p, gate_features(seen.entropies))
        weight = float(fitted(seen.log_p, torch.ones(len(seen.log_p), 1, dtype=torch.float64)).sigmoid())
        return {"coefficients": coefficients.tolist(), "weight": weight, "positions": len(seen.log_p)}

    # Cost

    def cost(self) -> Line:
        """Milliseconds of a core's pass over one token, of a look-up, and of combining; seconds of building."""
        load, size = os.getloadavg()[0], sum(len(text.encode()) for text in read_texts(self.corpus[1]))
        began = time.process_time()
        index = Index.of(self.notes)
        building = time.process_time() - began
        with torch.inference_mode():
            times = least(_runs(self.core, index, self.notes), _TURNS, time.process_time)
        return {
            "load": load,
            "megabytes": size / 1e6,
            "tokens": index.size,
            "building": building,
            "milliseconds": times,
        }


def _runs(core: Model, index: Index, notes: Sequence[Ids]) -> dict[str, Callable[[], object]]:
    """What is timed: the step that predicts one token of a text like the notes, after _LAST others."""
    text = [token for note in notes[len(notes) // 2 :] for token in note]
    engine, memory = causal(core), memory_denoiser(index, core)
    members = (Member(CORE, engine, Constant(0.8), "core"), Member("memory", memory, Constant(0.2), "memory"))
    both, alone = Ensemble(members, GatedAverage(PUBLIC_GATE)), Ensemble(members[:1])
    prefixes = both.start([[Prompt([core.manifest.begin or 0, *text[:_LAST]])], [Prompt(text[:_LAST])]], [1.0])
    hidden = [memory.process.mask_id] * (core.manifest.block_size - 1)
    # For each member two canvases take turns whose one known token differs, so that the core reads a token each time.
    known = [torch.tensor([[text[place], *hidden]]) for place in (_LAST, _LAST + 1)]
    of_core, of_memory = cycle(known), cycle(known)
    predicted = both.denoise(known[1], 1.0, None, prefixes)
    return {
        "core": lambda: engine.denoise(next(of_core), 1.0, None, prefixes[0]),
        "memory": lambda: memory.denoise(next(of_memory), 1.0, None, prefixes[1]),
        "combining": lambda: both.combine(predicted.by_member, predicted.weights),
        "combining of one": lambda: alone.combine(predicted.by_member[:1], (1.0,)),
    }


# The tables


def report(found: Sequence[Line]) -> str:
    """A table for each part and held-out file; standard errors are over documents."""
    of_members = [line for line in found if "sums" in line]
    tables = [*map(_table, of_members), *spreads(of_members)]
    gates = [line for line in found if line.get("part") == PUBLIC]
    costs = [line for line in found if line.get("part") == COST]
    return "\n\n".join([*tables, *map(_gate_of, gates), *([_cost_table(costs)] if costs else [])])


def _title(line: Line) -> str:
    size = f"{len(line['tokens'])} documents, {sum(line['tokens']):,} tokens, {sum(line['bytes']):,} bytes"
    return f"## {line['side']}: {line['part']}{' with ' * bool(line['small'])}{line['small'] or ''}\n\n{size}"


def _table(line: Line) -> str:
    names = list(line["sums"])
    columns = Columns(np.array([line["sums"][name] for name in names]).T, np.array(line["tokens"]))
    rows = []
    for place, name in enumerate(names):
        gains = [signed(*columns.gain(place, over=names.index(one))) for one in REFERENCES]
        loss = "{:.4f} ± {:.4f}".format(*columns.loss(place))
        bits = f"{columns.sums[:, place].sum() / math.log(2) / sum(line['bytes']):.4f}"
        rows.append([name, loss, bits, *gains, line["fitted"].get(name, "")])
    over = [f"gain over {name}" for name in REFERENCES]
    return f"{_title(line)}\n\n{table(['way', 'nats per token', 'bits per byte', *over, 'fitted'], rows)}"


def _gate_of(line: Line) -> str:
    size = f"{line['positions']:,} tokens of {line['corpus']} that were held back"
    return f"The gate of {size}: {_numbers([line['coefficients']])}; the memory's constant weight: {line['weight']:.3f}"


def _cost_table(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        times = line["milliseconds"]
        combining = times["combining"] - times["combining of one"]
        share = f"{100 * (times['memory'] + combining) / times['core']:.1f}%"
        each = [f"{value:.3f}" for value in (times["core"], times["memory"], combining)]
        building = f"{10 * line['building'] / line['megabytes']:.1f}"
        rows.append([line["corpus"], line["tokens"], *each, share, building, f"{line['load']:.1f}"])
    header = ["corpus", "tokens", "core, ms", "look-up, ms", "combining, ms", "share", "seconds per 10 MB", "load"]
    return f"## cost\n\n{table(header, rows)}"


def _numbers(rows: Sequence[Sequence[float]]) -> str:
    return "; ".join(" ".join(f"{value:.2f}" for value in row) for row in rows)


def _shares(gate: AverageGate) -> str:
    return " : ".join(f"{weight:.2f}" for weight in gate.weights)
