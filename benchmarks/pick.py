"""How little of a private context is enough?

    python -m benchmarks pick --out FILE
    python -m benchmarks pick --table FILE

Two contexts: the private document of `facts`, of 2,600 tokens, and the 99 notes of the bundled notebook, of 26,000.
What is to be said: the answers of the facts of `facts`, and the next tokens of held-out texts, cut at random places. A
case is a prompt and what follows it. It is predicted by the core that has read some passages of the context before the
prompt, alone and, as `ssd generate --context` has it, at 0.9 beside a memory of them at 0.1; the passages are those
that `--pick` keeps, as many of the first ones or of those that share most rare words with the prompt (BM25), so many
tokens of the latter (2,048 are read without `--pick`), all of the document, or none. An answer is said if each of its
tokens is the likeliest. Nothing was chosen by these cases.
"""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.facts import CLOZE, DATA, DOCUMENT, PARAPHRASED, PRIVATE, facts_of
from benchmarks.lib.beside_memory import Ids, memory_denoiser
from benchmarks.lib.corpora import Corpus, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.tables import mean, signed, table
from ssdcli.api import Placement, Request, Writer, choose
from ssdcli.demo.story import NOTEBOOK
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Prefix
from ssdcli.engine.prompt import Prompt
from ssdcli.generation.parts import LOOKED_UP, READ
from ssdcli.generation.picking import narrowed
from ssdcli.models.memory.text_index import Index
from ssdcli.registry.store import SMOLLM2
from ssdcli.text.messages import BETWEEN
from ssdcli.text.passages import joined, most_relevant, ranked_passages

_BEFORE, _FOLLOWING = 1500, 32  # characters of a held-out text before a cut, and tokens behind it
_SHORTEST = 30  # words before a cut, and behind it
_IN_VIEW = 2048  # tokens that are read without --pick
NONE, ALL, PICKED = "none", "all", "picked"
FIRST, RANKED = "as many of the first", "as many by BM25"

GROUPS = [
    *("document, verbatim facts", "document, paraphrased facts", "document, texts"),
    *("notebook, cloze", "notebook, paraphrased facts", "notebook, texts"),
]

Case = tuple[str, str]  # a prompt, and what follows it


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--cuts", type=int, default=3, help="of each held-out text")
    parser.add_argument("--parts", nargs="+", choices=GROUPS, default=GROUPS, help="kinds of cases")
    parser.add_argument("--budgets", type=int, nargs="*", default=[_IN_VIEW], help="tokens that BM25 fills")
    parser.add_argument("--limit", type=int, help="of each kind of case, the first so many")
    parser.add_argument("--skip", type=int, default=0, help="of these, the first so many")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each case."""
    bench = Bench(workshop.model(given.core), given)
    groups = [
        (name, context, cases[given.skip : given.limit])
        for name, context, cases in bench.groups()
        if name in given.parts
    ]
    for number in range(max(len(cases) for *_, cases in groups)):
        for group, context, cases in groups:
            for case in cases[number : number + 1]:
                workshop.piece({"group": group, "case": given.skip + number}, partial(bench.measured, context, case))


def cuts(texts: Sequence[str], count: int) -> list[Case]:
    """Texts cut at so many random places each."""
    draw, found = random.Random(0), []
    for words in (text.split(" ") for text in texts):
        for _ in range(count if len(words) > 2 * _SHORTEST else 0):
            at = draw.randrange(_SHORTEST, len(words) - _SHORTEST)
            found.append((" ".join(words[:at])[-_BEFORE:], " " + " ".join(words[at:])))
    return found


def _asked(facts: Sequence[dict[str, str]]) -> list[Case]:
    return [(fact["prompt"], f" {fact['answer']}") for fact in facts]


@dataclass(frozen=True)
class Bench:
    """A core and two contexts."""

    core: Model
    given: Namespace

    @cached_property
    def writer(self) -> Writer:
        """The members of `--context` alone."""
        spec = choose(self.core.name, None, self.core.registry, context=True)
        return spec.open(Placement("bfloat16"))

    @property
    def reader(self) -> CausalDenoiser:
        """The core as it reads the context."""
        reader: Any = self.writer.members[0].model.denoiser
        assert isinstance(reader, CausalDenoiser)
        return reader

    @cached_property
    def document(self) -> str:
        """The shorter context."""
        return BETWEEN.join(read_texts(DOCUMENT))

    @cached_property
    def document_read(self) -> tuple[Prefix, ...]:
        """The core that has read it, once for all cases."""
        return self._read(self.document)

    def _read(self, shown: str) -> tuple[Prefix, ...]:
        before = [self.core.manifest.begin or 0, *self.ids(shown + BETWEEN if shown else "")]
        return self.reader.start([Prompt(before)])

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        return self.writer.codec.encode(text)

    def groups(self) -> Iterator[tuple[str, str, list[Case]]]:
        """Names, contexts and cases."""
        notes = BETWEEN.join(read_texts(NOTEBOOK / "notes"))
        found = [
            *(
                _asked([fact for fact in facts_of(PRIVATE) if fact["kind"] == kind])
                for kind in ("verbatim", "paraphrased")
            ),
            cuts(read_texts(DATA / "private_heldout"), self.given.cuts),
            _asked(facts_of(CLOZE)),
            _asked(facts_of(PARAPHRASED)),
            cuts(read_texts(Corpus.notebook().heldout), self.given.cuts),
        ]
        for name, cases in zip(GROUPS, found, strict=True):
            yield name, self.document if name.startswith("document") else notes, cases

    @torch.no_grad()
    def measured(self, context: str, case: Case) -> Line:
        """What each way keeps, the nats of what follows, and whether it is said."""
        prompt, following = case
        ranked = ranked_passages(context, prompt)
        request, picked = narrowed(self.writer.members, Request(prompt, context, plain=True))
        assert picked is not None
        count = len(picked.passages)
        ways = {
            NONE: "",
            PICKED: request.context,
            FIRST: joined(sorted(ranked)[:count]),
            RANKED: joined(ranked[:count]),
        }
        length: Callable[[str], int] = lambda text: len(self.ids(text))  # noqa: E731
        ways |= {f"BM25, {most:,} tokens": most_relevant(context, prompt, length, most) for most in self.given.budgets}
        whole = length(context)
        if context == self.document:
            ways[ALL] = context
        asked, due = self.ids(prompt), self.ids(following)[:_FOLLOWING]
        return {
            "ways": {
                way: self._followed(shown, asked, due) | {"share": length(shown) / whole} for way, shown in ways.items()
            },
            "kept": list(map(str, picked.passages)),
        }

    def _followed(self, shown: str, asked: Ids, due: Ids) -> Line:
        """The nats of what is due after a prompt to the core that was shown a text, without a memory and with it."""
        text, places = [*asked, *due], range(len(asked), len(asked) + len(due))
        (prefix,) = self.document_read if shown == self.document else self._read(shown)
        states = self.reader.states_after(torch.tensor([text[:-1]]), prefix)
        read = both = self.reader.log_p(states[0, -len(due) :])
        if shown:
            memory = memory_denoiser(Index.of([]), self.core)
            known = torch.stack(list(memory.conditionals(text, places, self.ids(shown))))[:, : read.shape[1]]
            both = torch.logaddexp(read + np.log(READ), known + np.log(LOOKED_UP))
        return {"reader": _told(read, due), "both": _told(both, due), "tokens": len(due)}


def _told(log_p: Tensor, due: Ids) -> Line:
    nats = -float(log_p.gather(-1, torch.tensor(due)[:, None]).sum())
    return {"nats": round(nats, 4), "said": log_p.argmax(-1).tolist() == list(due)}


def report(found: Sequence[Line]) -> str:
    """A table for each kind of case; gains are over none, nats a token, errors over cases, paired."""
    groups: dict[str, list[Line]] = {}
    for line in found:
        if "group" in line:
            groups.setdefault(line["group"], []).append(line["ways"])
    return "\n\n".join(f"## {name}, {len(cases)} cases\n\n{_table(cases)}" for name, cases in groups.items())


def _table(cases: Sequence[Line]) -> str:
    rows = []
    tokens = np.array([case[NONE]["tokens"] for case in cases])
    for way in cases[0]:
        cells: list[object] = [way, f"{mean(case[way]['share'] for case in cases):.1%}"]
        for who in ("reader", "both"):
            gains = np.array([case[NONE]["reader"]["nats"] - case[way][who]["nats"] for case in cases])
            gain = gains.sum() / tokens.sum()
            error = np.sqrt(((gains - gain * tokens) ** 2).sum()) / tokens.sum()
            nats = sum(case[way][who]["nats"] for case in cases) / tokens.sum()
            cells += [f"{nats:.3f}", signed(float(gain), float(error)), sum(case[way][who]["said"] for case in cases)]
        rows.append(cells)
    header = ["passages", "share left", "reader: nats", "gain", "said", "with memory: nats", "gain", "said"]
    return table(header, rows)
