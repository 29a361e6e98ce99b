"""What a core makes of the words that may come next at places of the text: its states, and the tokens that follow.

A document and the words at its places are one pass: the words stand behind the text, and each token of one sees the
text before its place and the word's own tokens before it. So the states are those of the document with this word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssdcli.data.cloze import Branch
from ssdcli.data.cloze import read_branches as stored
from ssdcli.machine.units import counted
from ssdcli.models.backbones.causal import CausalCore
from ssdcli.models.backbones.side_network import SideNetwork

if TYPE_CHECKING:
    from ssdcli.training.prepare import Prepared

_COLUMNS = 2048  # of a pass: the tokens before the last place, and those of words
_MOST_BYTES = 1 << 30  # of states


@dataclass(frozen=True)
class ClozeStates:
    """States after which tokens of words follow, and how much each of these counts.

    states: (N, D) bfloat16.
    targets: (N,) int64.
    shares: that of its word, (N,) float32.
    """

    states: Tensor
    targets: Tensor
    shares: Tensor

    @classmethod
    def joined(cls, parts: Sequence[ClozeStates]) -> ClozeStates:
        """The states of all parts, one at least."""
        columns = ([getattr(part, name) for part in parts] for name in ("states", "targets", "shares"))
        return cls(*map(torch.cat, columns))


def next_words(prepared: Prepared) -> list[str]:
    """What to say of places of the text that tell which words may come next, if there are any."""
    places, reads = sum(1 for _ in stored(prepared.store.folder)), isinstance(prepared.model, SideNetwork)
    fate = "which are learned" if reads else "which only a model that reads its core learns"
    return [f"{counted(places, 'place')} tell which words may come next, {fate}"] if places else []


def cloze_states(prepared: Prepared, stops: Callable[[], bool]) -> ClozeStates | None:
    """What the core makes of the words at all places of the training text; None for a model that does not read it."""
    store, model = prepared.store, prepared.model
    if not isinstance(model, SideNetwork):
        return None

    def text(document: int) -> list[int]:
        start, stop, _ = store.train_documents[document]
        return [prepared.opening, *store.train[start:stop].tolist()]

    return read_cloze(model.core, text, list(stored(store.folder)), stops)


def read_cloze(
    core: CausalCore, texts: Callable[[int], Sequence[int]], branches: Sequence[Branch], stops: Callable[[], bool]
) -> ClozeStates | None:
    """Let a core read the words at all places, those of a document together; None if there are none.

    texts: the tokens of a document of this number after an opening.
    stops: asked after every pass, and when there are enough.
    """
    parts: list[ClozeStates] = []
    taken = 0
    for number, own in groupby(branches, key=lambda branch: branch.document):
        tokens = texts(number)
        for some in _passes(list(own), min(core.context, _COLUMNS)):
            parts.append(read_branches(core, tokens[: some[-1].at + 1], some))
            taken += parts[-1].states.nbytes
            if stops() or taken >= _MOST_BYTES:
                return ClozeStates.joined(parts)
    return ClozeStates.joined(parts) if parts else None


def _passes(branches: Sequence[Branch], most: int) -> Iterator[list[Branch]]:
    """Places of a document that are read together; those that it would take a longer text for are left out."""
    some: list[Branch] = []
    words = 0
    for branch in sorted(branches, key=lambda branch: branch.at):
        own = sum(len(ids) - 1 for ids, _ in branch.words)
        if branch.at + 1 + own > most:
            break
        if some and branch.at + 1 + words + own > most:
            yield some
            some, words = [], 0
        some.append(branch)
        words += own
    if some:
        yield some


@torch.no_grad()
def read_branches(core: CausalCore, text: Sequence[int], branches: Sequence[Branch]) -> ClozeStates:
    """What a core makes of words at places of a text, whose first token is an opening, in one pass."""
    columns, positions = list(text), list(range(len(text)))
    sees: list[Sequence[int]] = [range(place + 1) for place in range(len(text))]
    states, targets, shares = list[int](), list[int](), list[float]()
    for branch in branches:
        for ids, share in branch.words:
            places = [branch.at, *range(len(columns), len(columns) + len(ids) - 1)]
            for number, id in enumerate(ids[:-1], 1):
                sees.append([*range(branch.at + 1), *places[1 : number + 1]])
                positions.append(branch.at + number)
                columns.append(id)
            states += places
            targets += ids
            shares += [share] * len(ids)
    mask = torch.zeros(len(columns), len(columns), dtype=torch.bool)
    for row, seen in enumerate(sees):
        mask[row, torch.tensor(list(seen))] = True
    device = core.device
    tokens, at = (torch.tensor([one], device=device) for one in (columns, positions))
    read = core.encode(core.embed(tokens), at, mask[None, None].to(device), None)[0]
    found = read[torch.tensor(states, device=device)].to("cpu", torch.bfloat16)
    return ClozeStates(found, torch.tensor(targets), torch.tensor(shares))
