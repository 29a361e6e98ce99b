"""Does a memory make a core say the user's facts, in English, and is private context of use?

    python -m benchmarks facts --out FILE
    python -m benchmarks facts --small NAME --out FILE
    python -m benchmarks facts --table FILE

Prompts of facts are continued greedily. A fact is said if the continuation holds its answer, whatever its case, and
said at once if it begins with it. Three lists: the facts of the bundled notebook's own cloze, whose prompts stand in
the notes; 40 others of the same notes in other words; and 40 that stand only in a document of 2,000 words, half of
them word for word. The memory is that of the notes, or, as the private context, of that document. Gates are the
models' own; a memory alone has PUBLIC_GATE, fitted on other people's notes, and one of a context alone CONTEXT_GATE.

English is measured by the core: its nats per token of the continuations, beside those of what it writes itself after
the same prompts, greedily and drawn at temperature 1; and by the texts that repeat eight tokens in a row.

Bits per byte are exact code lengths of six short texts that the private document bears on. The core that is shown the
document has it in its own prompt, so that it leaves the private side.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.lib.beside_memory import causal
from benchmarks.lib.columns import Columns
from benchmarks.lib.continuations import Drawing, begun, write
from benchmarks.lib.corpora import Corpus, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.tables import mean, signed, table
from ssdcli.api import Blend, Options, Request, Writer, choose
from ssdcli.demo.story import NOTEBOOK
from ssdcli.evaluation.code_length import CodeSettings, code_lengths
from ssdcli.evaluation.combinations import Combination
from ssdcli.evaluation.scored_text import ScoredText
from ssdcli.generation.parts import CONTEXT, OF_MEMORY
from ssdcli.machine.placement import Placement
from ssdcli.registry.store import SMOLLM2
from ssdcli.text.messages import BETWEEN
from ssdcli.training.remember import train_memory
from ssdcli.training.settings import TrainSettings

DATA = Path(__file__).parent / "data"
DOCUMENT = DATA / "private_context.md"
CLOZE, PARAPHRASED, PRIVATE = "cloze", "paraphrased", "private"
LISTS = {
    CLOZE: NOTEBOOK / "cloze.jsonl",
    PARAPHRASED: DATA / "notebook_paraphrased.jsonl",
    PRIVATE: DATA / "private_context.jsonl",
}
CORE, DRAWN, SHOWN = "the core", "the core, drawn at temperature 1", "the core, shown the document"
N = 8  # repeated n-grams are counted for this n

_MEMORY = "notes-memory"
_DOCUMENT_MEMORY = CONTEXT + OF_MEMORY


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--small", help="a small model of the user's registry that was trained on the notebook")
    parser.add_argument("--tokens", type=int, default=32, help="of a continuation, at most")
    parser.add_argument("--lists", nargs="+", choices=LISTS, default=list(LISTS))


@dataclass(frozen=True)
class Author:
    """Who writes.

    members: the names that join the core.
    memory: whether their memories do.
    context: whether they have the private document.
    weight: of the first of them, constant; None for the tuned one.
    shown: whether the core has it in its own prompt.
    temperature: 0 for greedily.
    no_repeat: n, where no n-gram is written twice; 0 to allow all, None for the package's default.
    """

    members: tuple[str, ...] = ()
    memory: bool = True
    context: bool = False
    weight: float | None = None
    shown: bool = False
    temperature: float = 0.0
    no_repeat: int | None = None


def authors(small: str | None, *, private: bool) -> dict[str, Author]:
    """Who is compared, by what they are called in the tables."""
    found = {CORE: Author(), DRAWN: Author(temperature=1.0)}
    if private:
        found["core and memory of the document"] = Author((_DOCUMENT_MEMORY,), context=True)
        found["core and memory of the document, half each"] = Author((_DOCUMENT_MEMORY,), context=True, weight=0.5)
        found["core that reads the document"] = Author((CONTEXT,), memory=False, context=True, weight=1.0)
        found["core that reads the document, and memory of it"] = Author(context=True)
        if small is not None:
            found["core and small model"] = Author((small,), memory=False)
            found["core and memory of notes and document"] = Author((f"{small}:memory",), context=True)
            found["core and small model, which reads the document"] = Author((small,), memory=False, context=True)
            found["core, small model and memory of notes and document"] = Author((small,), context=True)
        found[SHOWN] = Author(shown=True)
        return found
    found["core and memory"] = Author((_MEMORY,))
    found["core and memory, --no-repeat 0"] = Author((_MEMORY,), no_repeat=0)
    if small is not None:
        found["core and small model"] = Author((small,), memory=False)
        found["core and the small model's memory"] = Author((f"{small}:memory",))
        found["core, small model and memory"] = Author((small,))
    return found


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each list and author, and for the code lengths of each."""
    bench = Bench(workshop, workshop.model(given.core), given)
    if given.small is not None:
        workshop.model(given.small)
    for name in given.lists:
        for title, author in authors(given.small, private=name == PRIVATE).items():
            workshop.piece({"list": name, "author": title}, partial(bench.continued, name, author))
            if name == PRIVATE and author.temperature == 0:
                make = bench.lengths_when_shown if author.shown else partial(bench.lengths, author)
                workshop.piece({"heldout": PRIVATE, "author": title}, make)


@dataclass(frozen=True)
class Bench:
    """A core, and where results are kept."""

    workshop: Workshop
    core: Model
    given: Namespace

    @cached_property
    def context(self) -> str:
        """The private document."""
        (text,) = read_texts(DOCUMENT)
        return text

    def ids(self, text: str) -> list[int]:
        """The tokens of a text."""
        ids: list[int] = self.core.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def writer(self, author: Author) -> Writer:
        """The loaded ensemble of an author."""
        registry = self.workshop.registry
        if _MEMORY in author.members and all(entry.name != _MEMORY for entry in registry.entries()):
            notes = Corpus.notebook().train
            train_memory(TrainSettings(data=(notes,), core=self.core.name, name=_MEMORY), registry)
        blend = Blend(memory=author.memory)
        weights: dict[str, float | None] = dict.fromkeys(author.members)
        if author.weight is not None:
            weights[author.members[0]] = author.weight
        exact = Placement("float32")  # in which a core is a model of transformers
        return choose(self.core.name, weights, registry, blend, context=author.context).open(exact)

    # Facts

    def continued(self, name: str, author: Author) -> Line:
        """What an author says to the prompts of a list."""
        writer, facts = self.writer(author), facts_of(name)
        context = self.context if author.context else ""
        requests = [Request(fact["prompt"], context=context, plain=True) for fact in facts]
        shared = [self.core.manifest.begin or 0, *self.ids(self.context + BETWEEN)] if author.shown else []
        asked = Options(temperature=author.temperature, no_repeat=author.no_repeat)
        how = Drawing(self.given.tokens, author.temperature, writer.no_repeat(asked))
        with torch.inference_mode():
            members = begun(writer, requests, shared)
        tokens = write(members, writer, [self.ids(fact["prompt"]) for fact in facts], how)
        texts = [self._decoded(row) for row in tokens.tolist()]
        return self._judged(facts, texts) | {"weights": {one.name: one.weight for one in writer.members}}

    def _decoded(self, ids: list[int]) -> str:
        """The text up to an end of text."""
        text: str = self.core.tokenizer.decode(ids[: ids.index(self.core.end)] if self.core.end in ids else ids)
        return text

    def _judged(self, facts: Sequence[Mapping[str, str]], texts: Sequence[str]) -> Line:
        """Which facts are said, the core's nats of each text's tokens, and which texts repeat themselves."""
        begin, answers = self.core.manifest.begin or 0, [fact["answer"] for fact in facts]
        before = [[begin, *self.ids(fact["prompt"])] for fact in facts]
        rows = [[*one, *self.ids(text)] for one, text in zip(before, texts, strict=True)]
        width = max(map(len, rows))
        padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])  # unseen: the core is causal
        with torch.inference_mode():
            scored = (-causal(self.core).score(padded)).tolist()
        ends = zip(scored, before, rows, strict=True)
        nats = [[round(value, 4) for value in own[len(one) - 1 : len(row) - 1]] for own, one, row in ends]
        said = [[_holds(text, own), _begins(text, own)] for text, own in zip(texts, answers, strict=True)]
        return {"texts": list(texts), "said": said, "nats": nats, "repeated": list(map(_repeats, rows))}

    # Code lengths

    def _heldout(self) -> list[ScoredText]:
        begin, texts = self.core.manifest.begin or 0, read_texts(DATA / "private_heldout")
        return [ScoredText([begin, *self.ids(text)], len(text.encode())) for text in texts]

    def lengths(self, author: Author) -> Line:
        """The nats of each held-out text under an author's ensemble."""
        writer, texts = self.writer(author), self._heldout()
        rule = writer.ensemble.rule
        combination = Combination(rule, tuple(member.schedule for member in writer.members))
        private = tuple(self.ids(self.context)) if author.context else ()
        small = tuple(self.ids(self.context + BETWEEN)[: self._room(writer)]) if author.context else ()
        losses = code_lengths(writer.members, texts, [combination], CodeSettings(context=small, private=private))
        return {"sums": losses.sums[:, 0].tolist(), "tokens": losses.tokens.tolist(), "bytes": losses.bytes.tolist()}

    def _room(self, writer: Writer) -> int:
        """Tokens of the document that small models are shown: half of their window."""
        rooms = [member.model.denoiser.room for member in writer.members if member.role == "small"]
        return min(rooms, default=0) // 2

    def lengths_when_shown(self) -> Line:
        """The nats of each held-out text after the document, in the core's own context."""
        texts = self._heldout()
        before = [texts[0].tokens[0], *self.ids(self.context + BETWEEN)]
        sums = []
        for text in texts:
            scored = causal(self.core).score(torch.tensor([[*before, *text.tokens[1:]]]))[0]
            sums.append(-float(scored[len(before) - 1 :].sum()))
        return {
            "sums": sums,
            "tokens": [len(text.tokens) - 1 for text in texts],
            "bytes": [text.bytes for text in texts],
        }


def facts_of(name: str) -> list[dict[str, str]]:
    """The facts of a list."""
    return [json.loads(line) for line in LISTS[name].read_text(encoding="utf-8").splitlines()]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _holds(text: str, answer: str) -> bool:
    return _plain(answer) in _plain(text)


def _begins(text: str, answer: str) -> bool:
    return _plain(text).startswith(_plain(answer))


def _repeats(ids: Sequence[int]) -> bool:
    """Whether any N tokens in a row occur twice."""
    runs = [tuple(ids[start : start + N]) for start in range(len(ids) - N + 1)]
    return len(set(runs)) < len(runs)


# The tables


def report(found: Sequence[Line]) -> str:
    """The tables of facts and of code lengths."""
    return "\n\n".join([*_fact_tables(found), *_length_tables(found)])


def _fact_tables(found: Sequence[Line]) -> Iterator[str]:
    for name in LISTS:
        lines = [line for line in found if line.get("list") == name]
        kinds = [fact.get("kind", "") for fact in facts_of(name)]
        drawn = [_nats(line) for line in lines if line["author"] == DRAWN]
        rows = [row for line in lines for row in _fact_rows(line, kinds, drawn)]
        if rows:
            header = ["author", "facts", "said", "said at once", "core's nats", "of drawn", "texts that repeat"]
            yield f"## {name}\n\n{table(header, rows)}"


def _nats(line: Line) -> float:
    return mean(value for text in line["nats"] for value in text)


def _fact_rows(line: Line, kinds: Sequence[str], drawn: Sequence[float]) -> Iterator[list[object]]:
    for kind in sorted(set(kinds), reverse=True):
        said = [pair for pair, own in zip(line["said"], kinds, strict=True) if own == kind]
        held, begun = (sum(pair[place] for pair in said) for place in (0, 1))
        ratio = f"{_nats(line) / drawn[0]:.2f}" if drawn else ""
        yield [
            line["author"],
            kind or "all",
            f"{held} of {len(said)}",
            begun,
            _nats(line),
            ratio,
            sum(line["repeated"]),
        ]


def _length_tables(found: Sequence[Line]) -> Iterator[str]:
    lines = [line for line in found if line.get("heldout") == PRIVATE]
    if not lines:
        return
    columns = Columns(np.array([line["sums"] for line in lines]).T, np.array(lines[0]["tokens"]))
    core = next(place for place, line in enumerate(lines) if line["author"] == CORE)
    rows = []
    for place, line in enumerate(lines):
        bits = f"{sum(line['sums']) / math.log(2) / sum(line['bytes']):.3f}"
        rows.append([line["author"], f"{columns.loss(place)[0]:.3f}", bits, signed(*columns.gain(place, over=core))])
    title = f"## code lengths of {len(lines[0]['tokens'])} texts, {sum(lines[0]['tokens']):,} tokens"
    yield f"{title}\n\n{table(['author', 'nats per token', 'bits per byte', 'gain over the core'], rows)}"
