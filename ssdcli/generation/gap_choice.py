"""The choice between several fills of a gap, for a core that did not see the text behind it when it wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from ssdcli.engine.causal import BranchingCausalDenoiser, CausalDenoiser, StepwiseCausalDenoiser
from ssdcli.engine.denoiser import Prefix
from ssdcli.engine.ensemble.ensemble import Ensemble
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


def shared(core: object) -> CausalDenoiser:
    """A causal language model that shares passes among several texts after one prompt."""
    if isinstance(core, StepwiseCausalDenoiser):
        return BranchingCausalDenoiser(core.backbone, core.process)
    assert isinstance(core, CausalDenoiser)
    return core  # shares them always


def branching(ensemble: Ensemble) -> Ensemble:
    """The members of an ensemble that writes several texts after one prompt."""
    return replace(
        ensemble,
        members=tuple(
            one.carrying(shared(one.model)) if isinstance(one.model, CausalDenoiser) else one
            for one in ensemble.members
        ),
    )


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
    that scores all candidates. The likeliest fills are then scored with more of the text behind, in a second pass.

    core: the causal language model that judges.
    before: what it reads before the gap.
    behind: the ids behind it, one at least.
    ends: the ids that end a text, one at least; a candidate counts up to the first of them.
    most: the most tokens of a fill.
    """

    core: CausalDenoiser
    before: Prompt
    behind: tuple[int, ...]
    ends: tuple[int, ...]
    most: int

    def best(self, candidates: Sequence[Candidate]) -> Fill:
        """The best beginning of the candidates; of equal ones the first. An empty one if nothing was written."""
        texts: dict[tuple[int, ...], int] = {}
        for place, blocks in enumerate(candidates):
            if written := self._ids(blocks):
                texts.setdefault(written, place)
        if not texts:
            return Fill(0, (), 0.0)
        (prefix,) = self.core.start([self.before])
        fills: dict[tuple[int, ...], Fill] = {}
        for fill in self._beginnings(texts, prefix):
            fills.setdefault(fill.tokens, fill)
        likeliest = sorted(fills.values(), key=_score, reverse=True)[:_COMPARED]
        return max(self._completed(likeliest, prefix), key=_score)

    def _ids(self, blocks: Candidate) -> tuple[int, ...]:
        """The ids of a candidate up to the first end of text."""
        ids = [id for block in blocks for id in block.tokens][: self.most]
        return tuple(takewhile(lambda id: id not in self.ends, ids))

    def _beginnings(self, texts: Mapping[tuple[int, ...], int], prefix: Prefix) -> Iterator[Fill]:
        """The first 1, 2, ... tokens of each text, whose candidate is given, scored with the first token behind."""
        for (tokens, place), log_p in zip(texts.items(), self._log_p(list(texts), prefix), strict=True):
            own = log_p[range(len(tokens)), list(tokens)].cumsum(0)
            for count, score in enumerate((own + log_p[1:, self.behind[0]]).tolist(), 1):
                yield Fill(place, tokens[:count], score)

    def _completed(self, fills: Sequence[Fill], prefix: Prefix) -> Iterator[Fill]:
        """Fills, scored with all tokens behind the gap."""
        texts = [(*fill.tokens, *self.behind[:_BEHIND]) for fill in fills]
        for fill, tokens, log_p in zip(fills, texts, self._log_p([one[:-1] for one in texts], prefix), strict=True):
            yield replace(fill, score=float(log_p[range(len(tokens)), list(tokens)].sum()))

    def _log_p(self, texts: Sequence[Sequence[int]], prefix: Prefix) -> Iterator[Tensor]:
        """Log p of each token of each text behind the prefix, and of the next one, in one pass: (n + 1, V) float32."""
        longest = max(map(len, texts))
        padded = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=prefix.tokens.device)
        states = self.core.states_after(padded, prefix)
        return (self.core.log_p(row[: len(text) + 1]) for row, text in zip(states, texts, strict=True))


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
            row.usage.block(block.weights, block.canvases)
            row.usage.draft(block.drafted, block.accepted)
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
