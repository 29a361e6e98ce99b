"""What a causal core and memories say of each token of some texts, from the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from benchmarks.lib.corpora import encode, read_texts
from benchmarks.lib.models import Model
from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.prompt import Prompt
from ssdcli.engine.sampling.nucleus import entropy
from ssdcli.engine.whole_text import WholeText
from ssdcli.evaluation.joint_gate import Observations
from ssdcli.models.memory.memory_denoiser import MemoryDenoiser
from ssdcli.models.memory.memory_files import Memory, Origin, remember
from ssdcli.models.memory.recall_denoiser import RecallDenoiser
from ssdcli.models.memory.text_index import Index

MOST = 256  # tokens of a document that are measured
FOLDS = 5
FITTED = 100  # documents that are held back for fitting where there are many

_FREE = 3.0  # standard deviation of the prior of a coefficient
_CHUNK = 64  # positions whose predictions are held at once

Ids = Sequence[int]


@dataclass(frozen=True)
class Side:
    """Texts to measure on, and the memory beside each, which does not hold it.

    name: of the side, such as `notebook` or `til.heldout`.
    texts: their first MOST tokens.
    indexes: the memory of each text.
    bytes: UTF-8 bytes of each text.
    """

    name: str
    texts: Sequence[Ids]
    indexes: Sequence[Index]
    bytes: Sequence[int]

    @cached_property
    def numbers(self) -> Tensor:
        """The number of the text of each token: (N,) int64."""
        return torch.repeat_interleave(torch.tensor([len(text) for text in self.texts]))

    @cached_property
    def tokens(self) -> Tensor:
        """All tokens: (N,) int64."""
        return torch.tensor([token for text in self.texts for token in text])

    def by_text(self, nats: Tensor) -> list[float]:
        """Sums over the tokens of each text: (N,) to one number a text."""
        sums = torch.zeros(len(self.texts), dtype=torch.float64).index_add(0, self.numbers, nats.double())
        return [round(float(value), 4) for value in sums]


def notes_of(path: str, core: Model) -> list[list[int]]:
    """The tokens of all notes of a file or folder."""
    return encode(read_texts(path), core.tokenizer)


def heldout_side(name: str, notes: Sequence[Ids], texts: Sequence[Ids], core: Model) -> Side:
    """Held-out texts beside the memory of all notes."""
    return _side(name, texts, [Index.of(notes)] * len(texts), core)


def fitting_side(name: str, notes: Sequence[Ids], core: Model) -> Side:
    """Notes held back, each beside a memory that lacks it and its near-duplicates.

    They are FITTED of the notes, drawn at random, or, where there are not twice as many, all of them, a fold at a time.
    """
    random = np.random.default_rng(0)
    if len(notes) >= 2 * FITTED:
        folds = [sorted(random.choice(len(notes), FITTED, replace=False).tolist())]
    else:
        fold_of = random.permutation(np.arange(len(notes)) % FOLDS)
        folds = [np.flatnonzero(fold_of == fold).tolist() for fold in range(FOLDS)]
    memory = remember(notes, [Origin("notes")] * len(notes))
    texts, indexes = [], []
    for fold in folds:
        held = [notes[place] for place in fold]
        texts += held
        indexes += [memory.without(held).index] * len(held)
    return _side(name, texts, indexes, core)


def _side(name: str, texts: Sequence[Ids], indexes: Sequence[Index], core: Model) -> Side:
    beginnings = [list(text[:MOST]) for text in texts]
    return Side(name, beginnings, indexes, [len(core.tokenizer.decode(text).encode()) for text in beginnings])


def causal(core: Model) -> CausalDenoiser:
    """The core's denoiser, which has to be a causal LM's."""
    assert isinstance(core.denoiser, CausalDenoiser)
    return core.denoiser


def memory_denoiser(index: Index, core: Model) -> MemoryDenoiser:
    """An index as the engine runs it."""
    assert isinstance(core.process, Masked)
    return MemoryDenoiser(Memory(index, ()), core.process, core.manifest.block_size)


@dataclass(frozen=True)
class Seen:
    """What core and memory say of the N tokens of a side.

    log_p: of the clean tokens, (N, 2) float64.
    entropies: (N, 2) float64.
    """

    log_p: Tensor
    entropies: Tensor

    @classmethod
    def of(cls, core: Tensor, memory: Tensor, tokens: Tensor) -> Seen:
        """By log p, (n, V) each, and the clean tokens, (n,)."""
        log_p = torch.cat([said.gather(-1, tokens[:, None]) for said in (core, memory)], dim=1)
        return cls(log_p.double(), torch.stack([entropy(said) for said in (core, memory)], dim=1).double())

    def observations(self, side: Side) -> Observations:
        """The same for the package's own fit of gates."""
        members: tuple[Role, ...] = ("core", "memory")
        return Observations(members, self.log_p, self.entropies, side.numbers)


@torch.inference_mode()
def seen_of(side: Side, core: Model, folder: Path) -> Seen:
    """What core and memories say of a side; kept in a folder."""
    path = folder / f"{side.name}.npz"
    if not path.exists():
        parts = []
        for text, index in zip(side.texts, side.indexes, strict=True):
            rows = causal(core).states(torch.tensor([[core.manifest.begin or 0, *text[:-1]]]))[0]
            said = memory_denoiser(index, core).conditionals(text, range(len(text)))
            for some, tokens in zip(rows.split(_CHUNK), torch.tensor(text).split(_CHUNK), strict=True):
                parts.append(Seen.of(causal(core).log_p(some), torch.stack([next(said) for _ in tokens]), tokens))
        log_p, entropies = (torch.cat([getattr(one, name) for one in parts]) for name in ("log_p", "entropies"))
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, log_p=log_p.numpy(), entropies=entropies.numpy())
    kept = np.load(path)
    return Seen(*(torch.from_numpy(kept[name]) for name in ("log_p", "entropies")))


def averaged(log_p: Tensor, scores: Tensor) -> Tensor:
    """The nats of averages, the log-odds of the second member's weight being the scores: (n, 2) and (n,) to (n,)."""
    return -torch.logaddexp(log_p[:, 0] + logsigmoid(-scores), log_p[:, 1] + logsigmoid(scores))


def fitted(log_p: Tensor, columns: Tensor) -> Tensor:
    """The coefficients (K,) of columns (n, K) whose averages are likeliest, under a prior that hardly matters."""
    coefficients = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([coefficients], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        nats = averaged(log_p, columns @ coefficients)
        loss = (nats.sum() + ((coefficients / _FREE) ** 2).sum() / 2) / len(nats)
        loss.backward()
        return loss

    optimizer.step(closure)
    return coefficients.detach()


@torch.inference_mode()
def said_from_the_left(small: Model, text: Ids) -> Tensor:
    """A small model's log p of each token of a text after its first, and its entropy, from the left: (T - 1, 2)."""
    denoiser, found = small.denoiser, []
    if isinstance(denoiser, CausalDenoiser):  # of texts that fit into its window
        log_p, ids = denoiser.log_p(denoiser.states(torch.tensor([text[:-1]])))[0], torch.tensor(text[1:])
        return torch.stack([log_p.gather(-1, ids[:, None])[:, 0], entropy(log_p)], dim=1).double()
    prompt, start = Prompt([text[0]]), 1
    while start < len(text):
        tokens = torch.tensor(text[start : start + denoiser.reach(prompt)])
        states = WholeText.read(denoiser, prompt, tokens).conditionals()[: len(tokens)]
        log_p = denoiser.backbone.logits(states).log_softmax(-1)
        found.append(torch.stack([log_p.gather(-1, tokens[:, None])[:, 0], entropy(log_p)], dim=1))
        prompt, start = denoiser.slid(prompt, tokens.tolist()), start + len(tokens)
    return torch.cat(found).double()


@torch.inference_mode()
def remembered_from_the_left(small: Model, text: Ids) -> Tensor:
    """The same by the model's own memory, (T - 1, 2): the text's first token is the core's opening."""
    denoiser, ids = small.memory.denoiser, torch.tensor(text[1:])
    if isinstance(denoiser, RecallDenoiser):
        states = denoiser.core.states(torch.tensor([text[:-1]]))[0]
        rows = denoiser.conditionals(text[1:], range(len(ids)), states=states)
    else:
        rows = denoiser.conditionals(text[1:], range(len(ids)))
    said = [(log_p[token].double(), entropy(log_p).double()) for log_p, token in zip(rows, ids, strict=True)]
    return torch.stack([torch.stack(pair) for pair in said])
