"""How many passes of a causal core do drafts save, and how much time?

    python -m benchmarks drafting --corpus til.train.jsonl til.heldout.jsonl --out FILE
    python -m benchmarks drafting --small NOTES TIL --corpus til.train.jsonl til.heldout.jsonl --out FILE
    python -m benchmarks drafting --small NOTES --wider 16 --ways "core alone" drafts --out FILE

The core, with a memory of the training text and the public gate, continues the beginnings of held-out documents, as
`ssd generate` does: without drafts, with drafts of any drafter, of some tokens at most, and with a drafter that always
misses. The core alone is there for comparison. --small names registered small models, one for each corpus, the notebook
first: with its memory and its gate each takes the public gate's place. Ways take turns document by document. Seconds
are of the processor. With --wider, the core's feed-forward layers are so many times as wide: it says the same, and
costs what a core of that size does.

Agreement is measured on the documents' own text: how likely a token that the memory draws is the one that the ensemble
draws there, by the race that is used, by independent draws, and by the best coupling there is, the overlap of the two
distributions.

A memory that is sure could write without the core, which then reads a whole stretch at once. What that costs is
measured on the same text: nats a token where the memory alone predicts the places at which its likeliest token has some
chance or more, against the ensemble's.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice, zip_longest
from typing import Any

import torch
from torch import Tensor

from benchmarks.lib.corpora import Corpus, corpora_of, encode, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.tables import signed, table
from benchmarks.lib.timing import processor_seconds
from benchmarks.lib.wider import adopted, widened
from ssdcli.api import Options, Writer, load
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.drafting.drafter import Draft
from ssdcli.engine.drafting.drafting import Drafting
from ssdcli.engine.ensemble.gate import PUBLIC_GATE
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.rules import Rule, gated
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.noise import CounterNoise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampling.nucleus import Picker
from ssdcli.engine.sampling.race import Race
from ssdcli.engine.sampling.reverse import ReverseProcess
from ssdcli.generation.loaded_model import Loaded, LoadedMemory, LoadedModel, open_model
from ssdcli.machine.placement import Placement
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.memory_files import Origin, remember
from ssdcli.registry.store import SMOLLM2

QUICK = {"rows": 1, "before": 16, "length": 16, "temperatures": [0.7], "ways": ["no drafts", "drafts"], "places": 20}
TOP_P = 0.95
WAYS = ("no drafts", "drafts", "drafts of 4", "drafts of 8", "always a miss", "core alone", "core alone, drafts")
SURE = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_DRAWS = 16  # at each place, to measure agreement


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs=2, action="append", default=[], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--small", nargs="+", default=[], help="small models of the user's registry")
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, causal")
    parser.add_argument("--wider", type=int, default=1, metavar="N", help="a core N times as wide that says the same")
    parser.add_argument("--dtype", default="bfloat16", help="of the core")
    parser.add_argument("--rows", type=int, default=8, help="documents")
    parser.add_argument("--before", type=int, default=48, help="tokens of a document that are continued")
    parser.add_argument("--length", type=int, default=96, help="tokens of a continuation")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument(
        "--places", type=int, default=200, help="tokens of the documents at which agreement is measured"
    )


def work(given: Namespace, workshop: Workshop) -> None:
    """Write every continuation in every way, and measure agreement."""
    placement, of_core = Placement(dtype=given.dtype), workshop.model(given.core)
    if given.wider > 1:
        of_core = widened(of_core, given.wider, workshop.registry)
    core = open_model(of_core.entry, placement)
    for corpus, name in zip_longest(corpora_of(given), given.small):
        both = beside = writer_of(core, corpus)
        if name is not None:
            small = workshop.model(name)
            small = adopted(small, of_core, workshop.registry) if given.wider > 1 else small
            beside = load(of_core.name, [small.name], workshop.registry, placement=placement)
        prompts = beginnings(core, corpus, given.rows, given.before)
        for temperature in given.temperatures:
            options = Options(given.length, temperature=temperature, top_p=TOP_P, seed=0, plain=True)
            asked = {"corpus": corpus.name, "temperature": temperature, "ways": given.ways}
            workshop.piece(asked, partial(in_turn, core, beside, prompts, options, given.ways))
            picker = Picker(temperature, TOP_P)
            asked = {"corpus": corpus.name, "agreement": temperature}
            workshop.piece(asked, partial(agreement, both, corpus, picker, given.places))
        workshop.piece({"corpus": corpus.name, "skipping": SURE}, partial(skipping, both, corpus, given.places))


def in_turn(core: LoadedModel, beside: Writer, prompts: Sequence[str], options: Options, ways: Sequence[str]) -> Line:
    """What continuing the prompts took in each way, which take turns document by document."""
    alone = Writer([Member("core", core, Constant(1.0))], "core")
    writers = {way: alone if "alone" in way else beside for way in ways}
    for way, writer in writers.items():
        written(writer, prompts[0], replace(options, max_tokens=4), way)  # so that nothing is counted that is done once
    found: dict[str, Line] = {way: {"texts": []} for way in ways}
    for seed, prompt in enumerate(prompts):
        for way, writer in writers.items():
            line = written(writer, prompt, replace(options, seed=seed), way)
            found[way]["texts"].append(line.pop("text"))
            for name, number in line.items():
                found[way][name] = round(found[way].get(name, 0) + number, 3)
    return {"found": found}


def writer_of(core: LoadedModel, corpus: Corpus) -> Writer:
    """The core and a memory of a corpus's training text."""
    texts = encode(read_texts(corpus.train), core.codec.tokenizer)
    process = core.denoiser.process
    assert isinstance(process, Masked)
    memory = MemoryDenoiser(remember(texts, [Origin(corpus.name)] * len(texts)), process, core.denoiser.block_size)
    loaded = LoadedMemory(memory, core.codec, core.format)
    weights = PUBLIC_GATE.weights
    members: list[Member[Loaded]] = [
        Member("core", core, Constant(weights[0]), "core", weights[0]),
        Member("memory", loaded, Constant(weights[1]), "memory", weights[1]),
    ]
    return Writer(members, "core", gated(PUBLIC_GATE))


def beginnings(core: LoadedModel, corpus: Corpus, rows: int, before: int) -> list[str]:
    """The first tokens of held-out documents, as text."""
    ids = encode(read_texts(corpus.heldout), core.codec.tokenizer)
    return [core.codec.decode(row[:before]) for row in ids if len(row) >= 2 * before][:rows]


class Misses:
    """Drafts a token that is never drawn, as sure as can be."""

    def __init__(self, token: int) -> None:
        self.token = token

    def draft(self, canvas: Tensor, race: Race, count: int, prefix: Any) -> Draft:
        """That token, over and over."""
        shape = len(canvas), count
        return Draft(torch.full(shape, self.token), torch.ones(shape))


class MissingWriter(Writer):
    """Writes with a drafter that always misses."""

    def _drafting(self, reverse: ReverseProcess, options: Options) -> Drafting | None:
        process = self.members[0].model.denoiser.process
        assert isinstance(process, Masked)
        return Drafting((Misses(process.mask_id - 1),), (None,), self.members[0].model.denoiser.block_size)


def written(writer: Writer, prompt: str, options: Options, way: str) -> Line:
    """What continuing a prompt took."""
    most = 0 if way in ("no drafts", "core alone") else None
    if way.startswith("drafts of "):
        most = int(way.removeprefix("drafts of "))
    if way == "always a miss":
        writer = MissingWriter(writer.members, writer.core, writer.ensemble.rule)
    began = processor_seconds()
    one = writer.generate(prompt, replace(options, draft=most))
    seconds = processor_seconds() - began
    counts = {"tokens": one.tokens, "passes": one.steps, "drafted": one.drafted or 0, "accepted": one.accepted or 0}
    return {**counts, "seconds": seconds, "text": one.text}


@torch.no_grad()
def agreement(writer: Writer, corpus: Corpus, picker: Picker, places: int) -> Line:
    """How often draws from the memory and from the ensemble agree at places of held-out text, by three couplings."""
    found: Mapping[str, list[float]] = {"race": [], "independent": [], "best": []}
    for together, other, _ in islice(predictions(writer, corpus, 8), places):
        for name, share in _couplings(together, other, picker, len(found["race"])).items():
            found[name].append(share)
    return {name: sum(shares) / len(shares) for name, shares in found.items()}


@torch.no_grad()
def skipping(writer: Writer, corpus: Corpus, places: int) -> Line:
    """How many tokens a memory would write without the core, by how sure it must be, and the nats that are lost."""
    rows = []
    for together, other, token in islice(predictions(writer, corpus, 1), 8 * places):
        rows.append((float(other.exp().max()), float(together[token] - other[token])))
    sure, lost = torch.tensor(rows).double().T
    found = {}
    for least in SURE:
        skipped = sure >= least
        taken = lost * skipped
        found[str(least)] = [
            float(skipped.double().mean()),
            float(taken.mean()),
            float(taken.std() / len(taken) ** 0.5),
        ]
    return {"tokens": len(rows), "found": found}


def predictions(writer: Writer, corpus: Corpus, every: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Log p (V,) of the ensemble and of the memory at places of held-out documents, and the token there."""
    core, memory = (member.model.denoiser for member in writer.members)
    assert isinstance(core, CausalDenoiser)
    assert isinstance(memory, MemoryDenoiser)
    rule: Rule = writer.ensemble.rule
    for text in encode(read_texts(corpus.heldout), writer.codec.tokenizer):
        tokens = text[:64]
        own = core.log_p(core.states(torch.tensor([tokens]))[0])
        for place in range(16, len(tokens), every):
            other = next(iter(memory.conditionals([*tokens], [place])))
            yield rule([own[place - 1], other], PUBLIC_GATE.weights), other, tokens[place]


def _couplings(ensemble: Tensor, memory: Tensor, picker: Picker, seed: int) -> dict[str, float]:
    """The agreement of draws from two log p (V,)."""
    p, q = (picker.probabilities(log_p) for log_p in (ensemble, memory))
    p, q = p / p.sum(), q / q.sum()
    race, rows, draws = Race(picker, CounterNoise([seed]), 0), torch.zeros(_DRAWS).long(), torch.arange(_DRAWS)
    one, other = (race.winners(log_p.expand(_DRAWS, -1), rows, draws) for log_p in (ensemble, memory))
    return {
        "race": float((one == other).double().mean()),
        "independent": float((p * q).sum()),
        "best": float(torch.minimum(p, q).sum()),
    }


def report(found: Sequence[Line]) -> str:
    """A table of the ways, one of the couplings, and one of what skipping the core costs."""
    rows = [
        _row(one["corpus"], one["temperature"], way, one["found"])
        for one in found
        if "ways" in one
        for way in one["ways"]
    ]
    header = ["T", "way", "passes a token", "accepted", "ms a token", "as fast as without", "same texts"]
    first = table(["corpus", *header], rows)
    couplings = [line for line in found if "agreement" in line]
    second = table(
        ["corpus", "T", "race", "independent", "best"],
        [
            [one["corpus"], f"{one['agreement']:g}", *(f"{one[how]:.2f}" for how in ("race", "independent", "best"))]
            for one in couplings
        ],
    )
    third = table(
        ["corpus", "chance of the memory's likeliest", "tokens without the core", "nats a token lost"],
        [
            [one["corpus"], least, f"{share:.3f}", signed(lost, error)]
            for one in found
            if "skipping" in one
            for least, (share, lost, error) in one["found"].items()
        ],
    )
    return f"{first}\n\n{second}\n\n{third}"


def _row(corpus: str, temperature: float, way: str, ways: Mapping[str, Line]) -> list[str]:
    line, plain = ways[way], ways["no drafts"]
    speed = line["tokens"] / line["seconds"]
    same = sum(one == other for one, other in zip(line["texts"], plain["texts"], strict=True))
    return [
        corpus,
        f"{temperature:g}",
        way,
        f"{line['passes'] / line['tokens']:.2f}",
        f"{line['accepted']} of {line['drafted']}",
        f"{1000 / speed:.1f}",
        f"{speed * plain['seconds'] / plain['tokens']:.2f}",
        "" if "alone" in way else f"{same} of {len(line['texts'])}",
    ]
