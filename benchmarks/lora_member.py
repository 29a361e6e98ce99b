"""Is a LoRA of the core worth something beside core and memory, as a third member?

    python -m benchmarks lora_member --corpus TRAIN HELDOUT [HELDOUT ...] --documents 40 --out FILE
    python -m benchmarks lora_member --table FILE

Exact code lengths of the first 256 tokens of each held-out document, as in `memory`. The LoRA is trained for some
minutes of processor time on all notes but those that gates are fitted on: 100 notes drawn at random, or a fifth of them
where there are fewer than 200. Beside these, the memory lacks them and their near-duplicates; beside the documents that
are counted it holds all notes. Nothing is fitted on these documents.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.beside_memory import MOST, Ids, Side
from benchmarks.lib.columns import Columns
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.next_token import Budget, Notes, adapted
from benchmarks.lib.tables import signed, table
from benchmarks.memory import CORE, Bench, corpora_of
from ssdcli.engine.ensemble.gate import PUBLIC_GATE, AverageGate
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.evaluation.joint_gate import Observations, constant_nats, fit_joint_gate, gated_nats
from ssdcli.registry.store import SMOLLM2

GATED = "core and memory, gated"


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs="+", action="append", default=[], metavar="FILE", help="TRAIN HELDOUT ...")
    parser.add_argument("--no-notebook", action="store_true", help="leave the bundled notebook out")
    parser.add_argument("--documents", type=int, help="measure on the first so many held-out documents only")
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--minutes", type=float, default=2.0, help="of processor time for the LoRA")
    parser.add_argument("--rate", type=float, default=1e-3, help="its learning rate")
    parser.add_argument("--rank", type=int, default=16)


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each corpus."""
    core = workshop.model(given.core)
    for corpus in corpora_of(given):
        bench = Bench(workshop, core, corpus, given)
        workshop.piece({"corpus": corpus[0], "minutes": given.minutes}, partial(measured, bench, given))


def measured(bench: Bench, given: Namespace) -> Line:
    """The nats of each held-out document by core, LoRA and memory, in several ways."""
    began, backbone = bench.core.manifest.begin or 0, _network(bench)
    side = bench.fitting
    held = [text for text, index in zip(side.texts, side.indexes, strict=True) if index is side.indexes[0]]
    beginnings = {tuple(text) for text in held}
    learned = [[began, *note] for note in bench.notes if tuple(note[:MOST]) not in beginnings]
    notes = Notes(learned, [[began, *text] for text in held])
    network, steps = adapted(backbone, notes, Budget(60 * given.minutes, given.rate), given.rank)
    count = sum(map(len, held))
    rows = torch.arange(len(side.tokens)) < count
    fitting = _three(bench.fitted_on.observations(side).rows(rows), said(network, held, began))
    found = {}
    for path in bench.corpus[2]:
        test = bench.test(path)
        seen = _three(bench.seen(test).observations(test), said(network, test.texts, began))
        found[test.name] = _line(test, _ways(fitting, seen))
    return {"steps": steps, "fitted on": count, "sides": found}


def _network(bench: Bench) -> Any:
    backbone: Any = bench.core.backbone
    return backbone.model


@torch.inference_mode()
def said(network: Any, texts: Sequence[Ids], begin: int) -> Tensor:
    """A causal LM's log p of each token of texts, and its entropy there: (N, 2) float64."""
    found = []
    for text in texts:
        hidden = network.model(torch.tensor([[begin, *text[:-1]]])).last_hidden_state[0]
        for own, tokens in zip(hidden.split(64), torch.tensor(text).split(64), strict=True):
            log_p = network.lm_head(own).float().log_softmax(-1)
            found.append(torch.stack([log_p.gather(-1, tokens[:, None])[:, 0], entropy(log_p)], dim=1))
    return torch.cat(found).double()


def _three(both: Observations, lora: Tensor) -> Observations:
    """Core, LoRA and memory; the LoRA has the role of a small model."""
    log_p, entropies = (
        torch.stack([of[:, 0], lora[:, place], of[:, 1]], dim=1)
        for place, of in enumerate((both.log_p, both.entropies))
    )
    return replace(both, members=("core", "small", "memory"), log_p=log_p, entropies=entropies)


def _as_core(seen: Observations) -> Observations:
    """LoRA and memory, without the core."""
    return replace(seen, members=("core", "memory"), log_p=seen.log_p[:, 1:], entropies=seen.entropies[:, 1:])


def _ways(fitting: Observations, seen: Observations) -> Mapping[str, Tensor]:
    """The nats of each token: (N,)."""
    found = {CORE: -seen.log_p[:, 0], "the LoRA": -seen.log_p[:, 1]}
    sets: dict[str, tuple[Observations, Observations]] = {
        "core and memory": (fitting.of(("core", "memory")), seen.of(("core", "memory"))),
        "core and LoRA": (fitting.of(("core", "small")), seen.of(("core", "small"))),
        "LoRA and memory": (_as_core(fitting), _as_core(seen)),
        "core, LoRA and memory": (fitting, seen),
    }
    for title, (own, counted) in sets.items():
        gate: AverageGate = fit_joint_gate(own).gate
        found[f"{title}, constant weights"] = constant_nats(gate.weights, counted)
        found[f"{title}, gated"] = gated_nats(gate, counted)
    found["LoRA and memory, PUBLIC_GATE"] = gated_nats(PUBLIC_GATE, _as_core(seen))
    return found


def _line(side: Side, ways: Mapping[str, Tensor]) -> Line:
    return {
        "tokens": [len(text) for text in side.texts],
        "bytes": list(side.bytes),
        "sums": {name: side.by_text(nats) for name, nats in ways.items()},
    }


def report(found: Sequence[Line]) -> str:
    """A table for each held-out file; standard errors are over documents, those of gains paired."""
    return "\n\n".join(part for line in found if "sides" in line for part in _tables(line))


def _tables(line: Line) -> Iterator[str]:
    for name, side in line["sides"].items():
        names = list(side["sums"])
        columns = Columns(np.array([side["sums"][way] for way in names]).T, np.array(side["tokens"]))
        rows = []
        for place, way in enumerate(names):
            bits = f"{sum(side['sums'][way]) / math.log(2) / sum(side['bytes']):.4f}"
            gains = [signed(*columns.gain(place, over=names.index(one))) for one in (CORE, GATED)]
            rows.append([way, f"{columns.loss(place)[0]:.4f}", bits, *gains])
        header = ["way", "nats per token", "bits per byte", f"gain over {CORE}", f"gain over {GATED}"]
        yield f"## {name}: {line['steps']} steps, gates fitted on {line['fitted on']:,} tokens\n\n{table(header, rows)}"
