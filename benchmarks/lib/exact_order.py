"""What some notes are worth beside a causal LM: code lengths of held-out documents, token by token, from the left.

A code length is exact, so that the LM, what was trained on it, small models and n-grams can be compared and averaged.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from benchmarks.lib.columns import Columns
from benchmarks.lib.corpora import Corpus, encode, read_texts
from benchmarks.lib.experiment import Line, Workshop
from benchmarks.lib.models import Model
from benchmarks.lib.next_token import Budget, Fitted, Loss, Notes, nats_of, train_lora, train_side_network
from benchmarks.lib.ngram import NGram
from benchmarks.lib.retrieval import Library
from benchmarks.lib.tables import signed, table
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.whole_text import WholeText
from ssdcli.training.settings import TrainSettings

MOST = 256  # tokens of a document that are measured
QUERY = 32  # tokens of a document that notes are looked up by, and that are themselves measured without notes
CORE, NGRAM, SMALL, LORA, SIDE, NOTES = MEMBERS = ("core", "n-gram", "small", "LoRA", "side", "notes")
WAYS = {
    "the core as it is": (CORE,),
    "the core, its context filled with notes": (NOTES,),
    "a LoRA on the core": (LORA,),
    "a side network on the core's states": (SIDE,),
    "a small model alone": (SMALL,),
    "a small model and the core": (CORE, SMALL),
    "an n-gram alone": (NGRAM,),
    "an n-gram and the core": (CORE, NGRAM),
    "an n-gram, a small model and the core": (CORE, SMALL, NGRAM),
    "an n-gram and the core, its context filled with notes": (NOTES, NGRAM),
    "an n-gram and a LoRA": (LORA, NGRAM),
    "an n-gram and a side network": (SIDE, NGRAM),
    "an n-gram, a small model and a side network": (SIDE, SMALL, NGRAM),
}
REFERENCES = (CORE,), (CORE, SMALL)  # what ways are compared with, by document
_ROUNDS = 200  # of fitting weights


@dataclass(frozen=True)
class Texts:
    """A corpus in a core's tokens, each text after the core's opening; of held-out documents their beginnings.

    bytes: UTF-8 bytes of each held-out beginning.
    """

    train: Sequence[Sequence[int]]
    heldout: Sequence[Sequence[int]]
    bytes: Sequence[int]

    @classmethod
    def of(cls, corpus: Corpus, core: Model, documents: int | None) -> Texts:
        """Read and encode both sides of a corpus."""
        train, heldout = (
            [[core.manifest.begin or 0, *ids] for ids in encode(read_texts(path, most), core.tokenizer)]
            for path, most in ((corpus.train, None), (corpus.heldout, documents))
        )
        heldout = [text[: MOST + 1] for text in heldout]
        return cls(train, heldout, [len(core.tokenizer.decode(text[1:]).encode()) for text in heldout])


# Members


@dataclass(frozen=True)
class Bench:
    """A causal core, a corpus in its tokens, and where and how the members beside it are made."""

    workshop: Workshop
    core: Model
    corpus: Corpus
    given: Namespace
    seed: int

    @cached_property
    def texts(self) -> Texts:
        """The corpus."""
        return Texts.of(self.corpus, self.core, self.given.documents)

    @cached_property
    def network(self) -> Any:
        """The core in transformers' own class."""
        backbone: Any = self.core.backbone
        return backbone.model

    def made(self, member: str) -> Line:
        """What a member loses on each token, and what it took to make."""
        made: Mapping[str, Callable[[], Line]] = {
            CORE: lambda: self._losses(partial(nats_of, self.network)),
            NGRAM: lambda: self._losses(NGram(self.texts.train, self.core.process.vocabulary).nats),
            SMALL: self._small,
            LORA: lambda: self._best(partial(train_lora, self.network, rank=self.given.rank)),
            SIDE: lambda: self._best(partial(train_side_network, self.network)),
            NOTES: lambda: {"nats": retrieved(self.network, self.texts, self.given.room)},
        }
        return made[member]() | {"bytes": self.texts.bytes}

    def _losses(self, losses: Loss) -> Line:
        return {"nats": [[round(nats, 5) for nats in losses(text)] for text in self.texts.heldout]}

    def _best(self, train: Callable[[Notes, Budget], Fitted]) -> Line:
        """The training at the rate that the notes held back like best: its losses, and what it took."""
        notes, seconds = Notes.split(self.texts.train), 60 * self.given.minutes
        made = [(rate, train(notes, Budget(seconds, rate, self.seed))) for rate in self.given.rates]
        rate, best = min(made, key=lambda pair: pair[1].own_loss)
        return self._losses(best.losses) | {"rate": rate, "steps": best.steps, "parameters": best.parameters}

    def _small(self) -> Line:
        """A small model from scratch, as `ssd train-small` makes it."""
        settings = TrainSettings(data=(self.corpus.train,), core=self.core.name, minutes=self.given.minutes)
        name = f"{self.corpus.name}-{SMALL}-{self.seed}"
        settings = replace(settings, name=name, seed=self.seed, size=self.given.size, **self.corpus.changes)
        made = self.workshop.trained(settings)
        small = self.workshop.model(name)
        network: Any = small.backbone
        count = sum(weight.numel() for weight in network.parameters())
        return self._losses(partial(nats_from_the_left, small)) | {"steps": made["steps"], "parameters": count}


@torch.no_grad()
def nats_from_the_left(small: Model, text: Sequence[int]) -> list[float]:
    """-log p of every token of a text after its first, under a masked model that reveals tokens from the left."""
    denoiser = small.denoiser
    found: list[float] = []
    prompt, start = Prompt([text[0]]), 1
    while start < len(text):
        tokens = torch.tensor(text[start : start + denoiser.reach(prompt)])
        states = WholeText.read(denoiser, prompt, tokens).conditionals()[: len(tokens)]
        log_p = denoiser.backbone.logits(states).log_softmax(-1)
        found += (-log_p.gather(-1, tokens[:, None])[:, 0]).tolist()
        prompt, start = denoiser.slid(prompt, tokens.tolist()), start + len(tokens)
    return found


def retrieved(network: Any, texts: Texts, room: int) -> list[list[float]]:
    """Losses of a causal LM whose context of `room` tokens holds the notes most like a document's beginning."""
    library = Library(texts.train, room)
    fast, found = deepcopy(network).bfloat16(), []
    for text in texts.heldout:
        alone = nats_of(network, text[: QUERY + 1])
        if len(text) > QUERY + 1:
            before = _filled(library, text[1 : QUERY + 1], room - len(text))
            alone += nats_of(fast, text, before)[QUERY:]
        found.append([round(nats, 5) for nats in alone])
    return found


def _filled(library: Library, query: Sequence[int], room: int) -> list[int]:
    """As many notes as fit, the most similar one last."""
    before: list[int] = []
    for note in library.ranked(query):
        if len(note) > room - len(before):
            break
        before = [*note, *before]
    return before


# Judging


@dataclass(frozen=True)
class Averaged:
    """Summed losses (D,) of the average of some members' probabilities, and its weights on either half: (2, M)."""

    sums: np.ndarray
    weights: np.ndarray

    def shares(self) -> str:
        """The weights of either half, where there are several."""
        if self.weights.shape[1] == 1:
            return ""
        return ", ".join(" : ".join(f"{weight:.2f}" for weight in half) for half in self.weights)

    @classmethod
    def of(cls, members: Sequence[Sequence[Sequence[float]]]) -> Averaged:
        """Average members, each with the nats of the tokens of the same D documents.

        The weights of either half of the documents are those of least loss on the other half.
        """
        documents = [np.exp(-np.array(nats)) for nats in zip(*members, strict=True)]
        weights = np.array([_fitted(np.hstack(documents[half::2])) for half in (1, 0)])
        return cls(np.array([-np.log(weights[d % 2] @ p).sum() for d, p in enumerate(documents)]), weights)


def _fitted(p: np.ndarray) -> np.ndarray:
    """The weights (M,) of the average of p (M, N) that is likeliest, by expectation and maximisation."""
    weights = np.full(len(p), 1 / len(p))
    for _ in range(_ROUNDS if len(p) > 1 else 0):
        shares = weights[:, None] * p
        weights = (shares / shares.sum(0)).mean(1)
    return weights


# The tables


def runs(lines: Mapping[tuple[Any, ...], Sequence[Line]]) -> dict[tuple[Any, ...], dict[str, Line]]:
    """The members' lines of each corpus, budget and seed."""
    found: dict[tuple[Any, ...], dict[str, Line]] = {}
    for (*name, member), (line, *_) in lines.items():
        found.setdefault(tuple(name), {})[member] = line
    return found


def report(name: tuple[Any, ...], members: Mapping[str, Line]) -> str:
    """The table of one corpus, budget and seed, of the ways whose members were made."""
    corpus, minutes, seed = name
    references = [Averaged.of([members[one]["nats"] for one in way]) for way in REFERENCES if set(way) <= set(members)]
    counts, sizes = np.array(list(map(len, members[CORE]["nats"]))), sum(members[CORE]["bytes"])
    rows: list[list[object]] = []
    for title, way in WAYS.items():
        if set(way) <= set(members):
            found = Averaged.of([members[member]["nats"] for member in way])
            columns = Columns(np.stack([found.sums, *(one.sums for one in references)], axis=1), counts)
            bits = f"{found.sums.sum() / math.log(2) / sizes:.3f}"
            gains = [signed(*columns.gain(0, over=1 + place)) for place in range(len(references))]
            rows.append([title, f"{columns.loss(0)[0]:.3f}", bits, *gains, found.shares()])
    made = [
        f"{member}: {line['steps']:,} steps, {line['parameters']:,} parameters"
        for member, line in members.items()
        if "steps" in line
    ]
    title = f"## {corpus}, {minutes:g} minutes, seed {seed}"
    measured = f"{len(counts)} documents, {counts.sum():,} tokens, {sizes:,} bytes"
    over = [f"gain over {name}" for name in ("the core", "both")[: len(references)]]
    header = ["way", "nats per token", "bits per byte", *over, "weights"]
    return f"{title}\n\n{'; '.join([measured, *made])}\n\n{table(header, rows)}"
