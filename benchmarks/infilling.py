"""Beside a causal core, how should gaps be filled: from the left, by a choice, with a small model that sees both sides?

    python -m benchmarks infilling --heldout HELDOUT --core smollm2 --members NAME --out FILE

Each gap is 1 to 8 tokens, whole words, of a held-out document, with some text on both sides. It is filled as
`ssd generate --infill` fills it: with the true number of tokens from the left, with the likeliest beginning of what is
written greedily, and with the best of several drawn fills; by the core alone, and together with the small model.
Counted are the fills that are the document's own, and the core's nats of the fill and of the text behind it. "The
likelier of" two ways takes from each pair of fills the one that the core finds likelier with the text behind it.

Then the true gap's own nats, exact, in the order from the left: of the core, and of the ensemble at several weights,
whose small model is shown the left side alone or both sides.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lib.corpora import own_text, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.tables import signed, table
from ssdcli.engine.ensemble.rules import average
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.prompt import Prompt
from ssdcli.generation.selection import choose
from ssdcli.generation.types import Options
from ssdcli.generation.writer import Writer
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import SMOLLM2
from ssdcli.text.codec import Codec

QUICK = {"gaps": 4}
LONGEST = 8  # tokens of a gap
WEIGHTS = (0.1, 0.2, 0.3, 0.5)
_SIDES = (64, 40)  # tokens that are known before and behind a gap
_JUDGED = 24  # tokens behind a gap whose likelihood is reported


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--heldout", nargs="+", default=own_text(), help="text that no model was trained on")
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--members", nargs="*", default=[], help="small models of the user's registry, for the core")
    parser.add_argument("--gaps", type=int, default=64)
    parser.add_argument("--more", type=int, nargs="*", default=[], help="further numbers of candidates, for the core")


# Gaps


@dataclass(frozen=True)
class Gap:
    """A gap in a document, as ids: the known text before it, its own and the known text behind it."""

    before: tuple[int, ...]
    own: tuple[int, ...]
    behind: tuple[int, ...]


def gaps_of(texts: Sequence[str], codec: Codec, count: int) -> list[Gap]:
    """One gap of 1, 2, ... tokens in each document that has one between words which are encoded alike when apart."""
    found: list[Gap] = []
    for key, text in enumerate(texts):
        ids = codec.encode(text)
        length = 1 + len(found) % LONGEST
        starts = [s for s in range(_SIDES[0], len(ids) - length - _JUDGED) if _fits(gap_at(ids, s, length), codec)]
        if starts and len(found) < count:
            place = int(float(CounterNoise([key]).uniform(1)) * len(starts))
            found.append(gap_at(ids, starts[place], length))
    return found


def gap_at(ids: Sequence[int], start: int, length: int) -> Gap:
    """The gap of so many tokens at a place of a document."""
    stop = start + length
    return Gap(tuple(ids[start - _SIDES[0] : start]), tuple(ids[start:stop]), tuple(ids[stop : stop + _SIDES[1]]))


def _fits(gap: Gap, codec: Codec) -> bool:
    """Whether a gap begins and ends between words, and each part is encoded alone as in the document."""
    parts = [gap.before, gap.own, gap.behind]
    before, own, behind = texts = [codec.decode(part) for part in parts]
    apart = (
        before[-1:] not in ("", " ") and own[:1] == " " == behind[:1] and own.strip() and "__" not in before + behind
    )
    return bool(apart) and all(tuple(codec.encode(text)) == part for text, part in zip(texts, parts, strict=True))


# The ways


@dataclass(frozen=True)
class Way:
    """Who fills gaps, and how; a `gap` of None is the gap's own length."""

    authors: str
    options: Options
    gap: int | None = None


def both(core: str, small: str) -> str:
    """The name of an ensemble."""
    return f"{core} and {small}"


def ways(given: Namespace) -> dict[str, Way]:
    """All ways by name."""
    greedy, drawn = Options(infill=True, temperature=0), Options(infill=True)
    found: dict[str, Way] = {}
    for authors in [given.core, *(both(given.core, small) for small in given.members)]:
        found |= {
            f"{authors}, greedily, length known": Way(authors, replace(greedy, candidates=1)),
            f"{authors}, greedily, its best beginning": Way(authors, greedy, LONGEST),
            f"{authors}, best of 8 drawn": Way(authors, replace(drawn, candidates=8), LONGEST),
        }
    found |= {f"{small}, greedily, length known": Way(small, replace(greedy, candidates=1)) for small in given.members}
    more = {
        f"{given.core}, best of {n} drawn": Way(given.core, replace(drawn, candidates=n), LONGEST) for n in given.more
    }
    return found | more


# The work


def work(given: Namespace, workshop: Workshop) -> None:
    """Fill all gaps in every way, then measure the true ones."""
    writers = writers_of(given, workshop)
    texts = [text for path in given.heldout for text in read_texts(path)]
    gaps = gaps_of(texts, writers[given.core].codec, given.gaps)
    judge: Any = writers[given.core].members[0].model
    workshop.piece({"way": "the document itself"}, lambda: judged(judge, gaps, [gap.own for gap in gaps]))
    for name, way in ways(given).items():
        workshop.piece({"way": name}, partial(filled, writers[way.authors], judge, gaps, way))
    for small in given.members:
        writer = writers[both(given.core, small)]
        workshop.piece({"nats": "of the true gap", "small": small}, partial(true_gaps, writer, gaps))


def writers_of(given: Namespace, workshop: Workshop) -> dict[str, Writer]:
    """The core, and for each small model both of them and the small model alone."""
    workshop.model(given.core)
    found = {given.core: choose(given.core, None, workshop.registry).open()}
    for small in given.members:
        workshop.model(small)
        ensemble = choose(given.core, [small], workshop.registry).open()
        alone = choose(NO_CORE, [small], workshop.registry).reopen(ensemble)
        found |= {both(given.core, small): ensemble, small: alone}
    return found


def filled(writer: Writer, judge: Any, gaps: Sequence[Gap], way: Way) -> Line:
    """The fills of all gaps: their ids, the core's nats of them and of what is behind, and processor seconds a gap."""
    codec, fills, began = writer.codec, list[tuple[int, ...]](), time.process_time()
    for seed, gap in enumerate(gaps):
        before, behind = codec.decode(gap.before), codec.decode(gap.behind)
        options = replace(way.options, gap=way.gap or len(gap.own), seed=seed)
        text = writer.generate(f"{before} ____{behind}", options).text
        fills.append(tuple(codec.encode(text[len(before) : len(text) - len(behind)])))
    seconds = (time.process_time() - began) / len(gaps)
    return judged(judge, gaps, fills) | {"seconds": seconds}


@torch.no_grad()
def judged(judge: Any, gaps: Sequence[Gap], fills: Sequence[tuple[int, ...]]) -> Line:
    """Whether each fill is the true one, and the core's nats of it and of the text behind it."""
    own, behind = [], []
    for gap, fill in zip(gaps, fills, strict=True):
        text = [*judge.after(list(gap.before)).before, *fill, *gap.behind[:_JUDGED]]
        nats = -judge.denoiser.score(torch.tensor([text]))[0]
        own.append(float(nats[len(nats) - _JUDGED - len(fill) : len(nats) - _JUDGED].sum()))
        behind.append(float(nats[-_JUDGED:].sum()))
    exact = [fill == gap.own for gap, fill in zip(gaps, fills, strict=True)]
    return {"exact": exact, "own": own, "behind": behind, "fills": [list(fill) for fill in fills]}


@torch.no_grad()
def true_gaps(writer: Writer, gaps: Sequence[Gap]) -> Line:
    """Nats of each true gap: of the core, of the small model shown one side or both, and of averages, by weight."""
    models: Any = (member.model for member in writer.members)
    core, small = models
    found: dict[str, list[float]] = {}
    for gap in gaps:
        own = torch.tensor(gap.own)
        (prefix,) = core.denoiser.start([core.after(list(gap.before))])
        core_log_p = core.denoiser.log_p(core.denoiser.states_after(own[None], prefix)[0, :-1])
        for side, after in (("left", ()), ("both", gap.behind[: small.denoiser.sight])):
            prompt = replace(small.after(list(gap.before)), after=after, gap=small.denoiser.backbone.block_size)
            small_log_p = from_left(small.denoiser, prompt, own)
            for weight in (0.0, *WEIGHTS, 1.0):
                log_p = average([core_log_p, small_log_p], [1 - weight, weight]) if 0 < weight < 1 else None
                log_p = (small_log_p if weight else core_log_p) if log_p is None else log_p
                nats = -float(log_p.gather(1, own[:, None]).sum())
                found.setdefault(f"{side} {weight:g}", []).append(nats)
    return {"losses": found, "tokens": [len(gap.own) for gap in gaps]}


def from_left(denoiser: Any, prompt: Prompt, own: Tensor) -> Tensor:
    """What a masked model says of each token of a gap when those before it are known: (n, V)."""
    rows = torch.arange(len(own))
    canvas = torch.full((len(own), denoiser.backbone.block_size), denoiser.process.mask_id)
    canvas[:, : len(own)] = torch.where(rows < rows[:, None], own, denoiser.process.mask_id)
    log_p: Tensor = denoiser.denoise(canvas, 1.0, None, denoiser.start([prompt] * len(own)))[rows, rows]
    return log_p


# The tables


def report(found: Sequence[Line]) -> str:
    """A row for each way and for pairs of ways, then one for each weight."""
    written = {line["way"]: line for line in found if "way" in line}
    names = [name for name in written if "best" in name]
    pairs = {
        f"the likelier of {one} and {other.split(', ')[1]}": likelier(written[one], written[other])
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if one.split(", ")[0] == other.split(", ")[0]
    }
    rows = [_row(name, line) for name, line in (written | pairs).items()]
    tables = [table(["way", "the document's own", "nats of the fill", "nats behind it", "both", "seconds"], rows)]
    tables += [f"With {line['small']}:\n\n{_true(line)}" for line in found if "losses" in line]
    return "\n\n".join(tables)


def likelier(one: Line, other: Line) -> Line:
    """Of two ways the fill that the core finds likelier together with what is behind it."""
    totals = [np.array(line["own"]) + np.array(line["behind"]) for line in (one, other)]
    second = totals[1] < totals[0]
    names = ("exact", "own", "behind")
    chosen = {name: list(np.where(second, other[name], one[name])) for name in names}
    return chosen | {"seconds": one["seconds"] + other["seconds"]}


def _row(name: str, line: Mapping[str, Any]) -> list[str]:
    own, behind = np.array(line["own"]), np.array(line["behind"])
    exact = f"{sum(line['exact'])} of {len(line['exact'])}"
    seconds = f"{line['seconds']:.1f}" if "seconds" in line else ""
    return [name, exact, f"{own.mean():.2f}", f"{behind.mean():.2f}", f"{(own + behind).mean():.2f}", seconds]


def _true(line: Line) -> str:
    """Nats per token of the true gaps, by what the small model is shown, and its gain over the core."""
    tokens = np.array(line["tokens"])
    core = np.array(line["losses"]["left 0"])
    rows = list(_gains({name: np.array(nats) for name, nats in line["losses"].items()}, core, tokens))
    return table(["weight", "left side", "gain over the core", "both sides", "gain over the core"], rows)


def _gains(losses: Mapping[str, np.ndarray], core: np.ndarray, tokens: np.ndarray) -> Iterator[list[str]]:
    for weight in (0.0, *WEIGHTS, 1.0):
        cells = [f"{weight:g}"]
        for side in ("left", "both"):
            nats = losses[f"{side} {weight:g}"]
            rest = core - nats - tokens * (core - nats).sum() / tokens.sum()
            error = float(np.sqrt((rest**2).sum()) / tokens.sum())
            cells += [f"{nats.sum() / tokens.sum():.3f}", signed(float((core - nats).sum() / tokens.sum()), error)]
        yield cells
