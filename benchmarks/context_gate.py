"""How should a private context be weighed, which its user names on purpose?

    python -m benchmarks context_gate --corpus TRAIN --out FILE
    python -m benchmarks context_gate --table FILE

Two kinds of text that come with a context of at most 2,700 tokens. *Related*: training notes of the bundled notebook
and of each corpus (those that `memory` fits gates on), whose context are the notes most like them (BM25 over the whole
note), without near-duplicates. *Answers*: those of the notebook's cloze, whose prompts stand in the context word for
word, among other notes drawn at random. A gate is the likeliest for a mixture of both, in which answers have a share of
the tokens. An answer is said if each of its tokens is the ensemble's likeliest after those before it. PUBLIC_GATE was
fitted beside memories of all notes, CONTEXT_GATE is this script's at the share that it names.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.facts import CLOZE, facts_of
from benchmarks.lib.beside_memory import Ids, Seen, averaged, causal, fitted, memory_denoiser, seen_of
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.retrieval import Library
from benchmarks.lib.tables import table
from benchmarks.memory import Bench, corpora_of
from ssdcli.engine.ensemble.gate import CONTEXT_GATE, PUBLIC_GATE
from ssdcli.engine.ensemble.rules import gate_features
from ssdcli.models.memory.text_index import Index
from ssdcli.registry.store import SMOLLM2

_ROOM = 2700  # tokens of a context: 2,000 words
PUBLIC, CONTEXT, HALF = "PUBLIC_GATE", "CONTEXT_GATE", "half each"


def arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--corpus", nargs="+", action="append", default=[], metavar="FILE", help="TRAIN")
    parser.add_argument("--no-notebook", action="store_true", help="leave the bundled notebook's notes out")
    parser.add_argument("--core", default=SMOLLM2, help="a causal LM of the user's registry")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0, 0.05, 0.1, 0.2, 0.3, 0.5], help="of answers")


def work(given: Namespace, workshop: Workshop) -> None:
    """A piece for each gate."""
    core = workshop.model(given.core)
    bench = ContextBench([Bench(workshop, core, corpus, given) for corpus in corpora_of(given)])
    for name in (HALF, PUBLIC, CONTEXT):
        workshop.piece({"gate": name}, partial(bench.known, name))
    for share in given.ratios:
        workshop.piece({"gate": "fitted", "share": share}, partial(bench.fitted, share))


def _nats(seen: Seen, coefficients: Tensor) -> float:
    """Per token, by a gate."""
    return float(averaged(seen.log_p, gate_features(seen.entropies) @ coefficients).mean())


@dataclass(frozen=True)
class Answer:
    """An answer that stands in a context: its tokens, and the log p of core and memory there, (N, V) each."""

    tokens: Ids
    core: Tensor
    memory: Tensor

    @property
    def told(self) -> Seen:
        """What both say of its tokens."""
        return Seen.of(self.core, self.memory, torch.tensor(self.tokens))

    def is_said(self, coefficients: Tensor) -> bool:
        """Whether each token is the likeliest by a gate."""
        share = (gate_features(self.told.entropies) @ coefficients).sigmoid()[:, None]
        p = (1 - share) * self.core.double().exp() + share * self.memory.double().exp()
        return p.argmax(-1).tolist() == list(self.tokens)


@dataclass(frozen=True)
class ContextBench:
    """The corpora; the first is the notebook."""

    benches: Sequence[Bench]

    @cached_property
    def related(self) -> dict[str, Seen]:
        """Notes beside contexts of related notes, by corpus; kept, since they take minutes."""
        return {
            bench.corpus[0]: Seen.kept(bench.folder / f"{bench.corpus[0]}.related.npz", partial(related, bench))
            for bench in self.benches
        }

    @cached_property
    def answers(self) -> list[Answer]:
        """The answers of the notebook's facts whose prompts stand in a note."""
        return answers(self.benches[0])

    def known(self, name: str) -> Line:
        """The judgement of a gate that is known."""
        coefficients = {HALF: ((0.0,) * 5,), PUBLIC: PUBLIC_GATE.coefficients, CONTEXT: CONTEXT_GATE.coefficients}
        return self._judged(torch.tensor(coefficients[name][0], dtype=torch.float64))

    def fitted(self, share: float) -> Line:
        """The likeliest gate, and constant weight, where answers have a share of the tokens."""
        related, said = Seen.joined(list(self.related.values())), Seen.joined([one.told for one in self.answers])
        times = round(share / (1 - share) * len(related.log_p) / len(said.log_p))
        both = Seen.joined([related, *[said] * times])
        weight = float(fitted(both.log_p, torch.ones(len(both.log_p), 1, dtype=torch.float64)).sigmoid())
        return self._judged(fitted(both.log_p, gate_features(both.entropies))) | {"weight": weight}

    def _judged(self, coefficients: Tensor) -> Line:
        said = Seen.joined([one.told for one in self.answers])
        return {
            "coefficients": coefficients.tolist(),
            "related": {name: _nats(told, coefficients) for name, told in self.related.items()},
            "answers": _nats(said, coefficients),
            "said": sum(one.is_said(coefficients) for one in self.answers),
            "of": len(self.answers),
        }


@torch.inference_mode()
def related(bench: Bench) -> Seen:
    """Notes, each beside a context of those most like it."""
    side = bench.fitting
    whole, memory = Index.of(bench.notes), memory_denoiser(Index.of([]), bench.core)

    def said(text: Ids) -> Iterator[Tensor]:
        note = next(note for note in bench.notes if list(note[: len(text)]) == list(text))
        library = Library([bench.notes[place] for place in whole.unlike([note])], len(whole.tokens))
        return memory.conditionals(text, range(len(text)), _filled(library.ranked(note)))

    return seen_of(side.texts, bench.states(side), bench.core, map(said, side.texts))


def _filled(notes: Any, first: Ids = ()) -> list[int]:
    """Notes one after another, up to _ROOM tokens."""
    context = list(first)
    for note in notes:
        context += note
        if len(context) >= _ROOM:
            break
    return context[:_ROOM]


@torch.inference_mode()
def answers(bench: Bench) -> list[Answer]:
    """What core and memory say of the answers, each after its prompt and beside a context that holds both."""
    core, random, found = bench.core, np.random.default_rng(0), []
    texts, memory = [core.tokenizer.decode(note) for note in bench.notes], memory_denoiser(Index.of([]), core)
    for fact in facts_of(CLOZE):
        home = next((place for place, text in enumerate(texts) if fact["prompt"] in text), None)
        if home is None:
            continue
        others = [note for place, note in enumerate(bench.notes) if place != home]
        random.shuffle(others)
        prompt, answer = (
            core.tokenizer.encode(text, add_special_tokens=False).ids
            for text in (fact["prompt"], f" {fact['answer'].strip()}")
        )
        text, places = [*prompt, *answer], range(len(prompt), len(prompt) + len(answer))
        said = memory.conditionals(text, places, _filled(others, bench.notes[home]))
        states = causal(core).states(torch.tensor([[core.manifest.begin or 0, *text[:-1]]]))[0, len(prompt) :]
        found.append(Answer(answer, causal(core).log_p(states), torch.stack(list(said))))
    return found


def report(found: Sequence[Line]) -> str:
    """A table of gates."""
    lines = [line for line in found if "gate" in line]
    names = list(lines[0]["related"])
    rows = []
    for line in lines:
        title = line["gate"] if "share" not in line else f"answers are {line['share']:.0%} of the tokens"
        related = [f"{line['related'][name]:.4f}" for name in names]
        numbers = " ".join(f"{value:.2f}" for value in line["coefficients"])
        weight = f"{line['weight']:.2f}" if "weight" in line else ""
        rows.append([title, *related, f"{line['answers']:.3f}", f"{line['said']} of {line['of']}", numbers, weight])
    header = ["gate", *(f"related, {name}" for name in names), "answers", "said", "coefficients", "constant weight"]
    return table(header, rows)
