"""How well do two small models with their memories predict the text of one, of the other, and of both at once?

    python -m benchmarks several --small notes ssdcli/bundled/notebook/heldout --small til til.heldout.jsonl \
        --cloze ssdcli/bundled/notebook/cloze.jsonl

Exact code lengths from the left, of the beginnings of held-out documents of each small model, and of documents that mix
both: the first half of one, then that of the other. The small models join one core as `ssd generate` lets them: alone,
together at their mean weights (`--rule average`), and together by the text so far, with and without their memories.
Then how many facts of the first model's text are said, greedily, by it and by both, and the processor time of reading
prompts of several lengths and of judging the ensembles by them.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import torch

from benchmarks.lib.beside_memory import notes_of
from benchmarks.lib.models import Model
from benchmarks.lib.tables import table
from ssdcli.api import Blend, Options
from ssdcli.engine.ensemble.members import Member
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.prompt import Prompt
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.loaded_model import Loaded
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.generation.writer import Writer
from ssdcli.machine.placement import Placement
from ssdcli.registry.store import SMOLLM2

QUICK = {"documents": 2, "length": 32, "prompts": [16], "repeats": 1}


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--small", nargs=2, action="append", required=True, metavar=("NAME", "HELDOUT"))
    parser.add_argument("--core", default=SMOLLM2, help="of the user's registry, which both read")
    parser.add_argument("--documents", type=int, default=15, help="of each kind")
    parser.add_argument("--length", type=int, default=192, help="tokens of a document that are measured")
    parser.add_argument("--cloze", type=Path, help="facts of the first model's text: JSON lines of prompt and answer")
    parser.add_argument(
        "--prompts", type=int, nargs="*", default=[32, 128, 512], help="tokens of prompts that are timed"
    )
    parser.add_argument("--repeats", type=int, default=3)


def main(given: Namespace) -> None:
    """Print a table of nats per token, the facts that are said, and a table of times."""
    core, names = Model.named(given.core), [name for name, _ in given.small]
    kinds = [notes_of(path, core) for _, path in given.small]
    kinds = [[text[: given.length] for text in texts if len(text) >= given.length // 2] for texts in kinds]
    first, second = (texts[: given.documents] for texts in kinds)
    half = given.length // 2
    mixed = [[*left[:half], *right[:half]] for left, right in zip(first, second, strict=False)]
    specs = _specs(given.core, names)
    exact = Placement("float32")  # in which a core is a model of transformers
    members = specs[_together(memory=True)].open(exact).members
    sides = {names[0]: first, names[1]: second, "both": mixed}
    found = {side: _nats(members, specs, texts, core) for side, texts in sides.items()}
    rows = [[way, *(f"{found[side][way]:.3f}" for side in sides)] for way in specs]
    print(f"{len(first)}, {len(second)} and {len(mixed)} documents of up to {given.length} tokens; nats per token\n")
    print(table(["members", *sides], rows))
    ways = [_alone(names[0], memory=True), _together(memory=True)]
    writers = {way: specs[way].open() for way in ways}
    if given.cloze is not None:
        print(f"\nfacts of {names[0]} that are said: {_facts(writers, given.cloze)}")
    if given.prompts:
        _print_times(writers, [token for text in kinds[0] for token in text], given)


def _alone(name: str, *, memory: bool) -> str:
    return f"core, {name}{' and memory' * memory}"


def _together(*, memory: bool) -> str:
    return f"core, both{' and memories' * memory}: by the text so far"


def _specs(core: str, names: Sequence[str]) -> dict[str, EnsembleSpec]:
    """The ensembles that are compared, by what they are called."""
    specs = {"the core": choose(core)}
    for memory in (False, True):
        specs |= {_alone(name, memory=memory): choose(core, [name], blend=Blend(memory=memory)) for name in names}
        mean = choose(core, names, blend=Blend("average", memory=memory))
        specs |= {f"core, both{' and memories' * memory}: mean weights": mean}
        specs |= {_together(memory=memory): choose(core, names, blend=Blend(memory=memory))}
    return specs


def _nats(
    members: Sequence[Member[Loaded]], specs: Mapping[str, EnsembleSpec], texts: Sequence[Sequence[int]], core: Model
) -> dict[str, float]:
    """Nats per token of the texts, in every way."""
    scored = [ScoredText([core.manifest.begin or 0, *text], 1) for text in texts]
    combinations = []
    for spec in specs.values():
        own = {member.name: member.schedule for member in spec.members}
        combinations.append(Combination(spec.rule, tuple(own.get(one.name, Constant(0.0)) for one in members)))
    losses = code_lengths(members, scored, combinations, CodeSettings())
    return dict(zip(specs, losses.nats_per_token().tolist(), strict=True))


def _facts(writers: Mapping[str, Writer], cloze: Path) -> str:
    """How many facts each writer says within eight tokens, greedily."""
    facts = [json.loads(line) for line in cloze.read_text(encoding="utf-8").splitlines()]
    options, said = Options(temperature=0, max_tokens=8, plain=True, seed=0), []
    for way, writer in writers.items():
        texts = [writer.generate(fact["prompt"], options).text for fact in facts]
        held = sum(fact["answer"].lower() in text.lower() for fact, text in zip(facts, texts, strict=True))
        said.append(f"{way}: {held} of {len(facts)}")
    return "; ".join(said)


@torch.inference_mode()
def _print_times(writers: Mapping[str, Writer], tokens: Sequence[int], given: Namespace) -> None:
    """Print the median milliseconds of processor time of reading prompts, and of judging the ensembles by them."""
    rows = []
    for length in given.prompts:
        cells: list[str] = []
        for writer in writers.values():
            reading, judging = [], []
            for repeat in range(given.repeats):
                prompt = Prompt((0, *islice(cycle(tokens), repeat * length, (repeat + 1) * length)))
                prompts = [[prompt]] * len(writer.members)
                began = time.process_time()
                prefixes = writer.ensemble.start(prompts, [1.0])
                read = time.process_time()
                writer.ensemble.heard(prompts, prefixes)
                reading.append(read - began)
                judging.append(time.process_time() - read)
            cells += [f"{1000 * median(reading):.0f}", f"{1000 * median(judging):.0f}"]
        rows.append([length, *cells])
    header = ["tokens", *(f"{way}: {what}" for way in writers for what in ("reading, ms", "judging, ms"))]
    print("\n" + table(header, rows))
