"""The choice between several fills of a gap, for a core that did not see the text behind it when it wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from ssdcli.engine.causal import CausalDenoiser
from ssdcli.engine.denoiser import Denoiser, Prefix
from ssdcli.engine.noise import fold
from ssdcli.engine.prompt import Prompt
from ssdcli.generation.row import Row
from ssdcli.generation.trace import WrittenBlock

Candidate = Sequence[WrittenBlock]

_BEHIND = 12  # tokens behind a gap that are scored
_COMPARED = 16  # fills that are scored with all of them
_CANDIDATES = 1 << 32  # the word from which candidates are numbered; gaps are numbered from 0


def candidate_keys(key: int, count: int) -> list[int]:
    """A key of noise for each candidate of a gap, whose own key is that of the first."""
    return [key, *(fold(key, _CANDIDATES + place) for place in range(1, count))]


@dataclass(frozen=True)
class Fill:
    """The beginning of a candidate.

    candidate: its place among the candidates.
    tokens: ids.
    score: log p of these tokens and of what follows them so far, in nats.
    """

    candidate: int
    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True)
class GapChooser:
    """Chooses the fill that makes the text around it likeliest.

    A causal core writes on until it is stopped: it does not know where the text behind the gap begins. So every
    beginning of every candidate is a fill, and the one is chosen whose tokens, followed by those behind the gap, have
    the highest probability. For most of them the first token behind the gap decides: it is predicted in the same pass
    that scores the candidate.

    core: the causal language model that judges.
    before: what it reads before the gap.
    behind: the ids behind it, one at least.
    ends: the ids that end a text, one at least; a candidate counts up to the first of them.
    most: the most tokens of a fill.
    """

    core: Denoiser
    before: Prompt
    behind: tuple[int, ...]
    ends: tuple[int, ...]
    most: int

    def best(self, candidates: Sequence[Candidate]) -> Fill:
        """The best beginning of the candidates; of equal ones the first. An empty one if nothing was written."""
        (prefix,) = self.core.start([self.before])
        fills: dict[tuple[int, ...], Fill] = {}
        for place, blocks in enumerate(candidates):
            for fill in self._beginnings(place, self._ids(blocks), prefix):
                fills.setdefault(fill.tokens, fill)
        if not fills:
            return Fill(0, (), 0.0)
        likeliest = sorted(fills.values(), key=_score, reverse=True)[:_COMPARED]
        return max((self._complete(fill, prefix) for fill in likeliest), key=_score)

    def _ids(self, blocks: Candidate) -> list[int]:
        """The ids of a candidate up to the first end of text."""
        ids = [id for block in blocks for id in block.tokens][: self.most]
        return list(takewhile(lambda id: id not in self.ends, ids))

    def _beginnings(self, candidate: int, tokens: Sequence[int], prefix: Prefix) -> Iterator[Fill]:
        """The first 1, 2, ... tokens of a candidate, each scored with the first token behind the gap."""
        if not tokens:
            return
        log_p = self._log_p(tokens, prefix)
        own = log_p[range(len(tokens)), list(tokens)].cumsum(0)
        for count, score in enumerate((own + log_p[1:, self.behind[0]]).tolist(), 1):
            yield Fill(candidate, tuple(tokens[:count]), score)

    def _complete(self, fill: Fill, prefix: Prefix) -> Fill:
        """The fill, scored with all tokens behind the gap."""
        tokens = (*fill.tokens, *self.behind[:_BEHIND])
        log_p = self._log_p(tokens[:-1], prefix)
        return Fill(fill.candidate, fill.tokens, float(log_p[range(len(tokens)), list(tokens)].sum()))

    def _log_p(self, tokens: Sequence[int], prefix: Prefix) -> Tensor:
        """Log p of each token behind the prefix and of the next one: (n + 1, V) float32."""
        ids = torch.tensor([tokens], device=prefix.tokens.device)
        assert isinstance(self.core, CausalDenoiser)
        return self.core.log_p(self.core.states_after(ids, prefix)[0])


def _score(fill: Fill) -> float:
    return fill.score


def add_best(
    row: Row, candidates: Sequence[Candidate], chooser: GapChooser, prompts: Sequence[Prompt], names: Sequence[str]
) -> str:
    """Add the best of these candidates to a row, and count what all of them cost; returns the text that is certain."""
    fill = chooser.best(candidates)
    for blocks in (blocks for place, blocks in enumerate(candidates) if place != fill.candidate):
        row.usage.start(prompts)
        for block in blocks:
            row.usage.block(block.weights)
    row.usage.start(prompts)
    return "".join(row.add(block, names) for block in _cut(candidates[fill.candidate], fill, chooser.ends[0]))


def _cut(blocks: Candidate, fill: Fill, end: int) -> Iterator[WrittenBlock]:
    """A candidate's blocks up to the end of the chosen fill, which an end of text closes."""
    left = list(fill.tokens)
    for block in blocks:
        here, left = left[: len(block.tokens)], left[len(block.tokens) :]
        yield replace(block, tokens=here if left else [*here, end])
        if not left:
            return
