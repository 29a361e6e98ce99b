"""Which drafter proposes how many tokens: the one whose proposals were drawn most often of late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssdcli.engine.drafting.drafter import Draft, Drafter
from ssdcli.engine.sampling.race import Race

COST = 0.2  # of one more token in a pass, of a pass over one (measured)
_DEAREST = 0.4  # what a token may cost; above it drafters take longer than they save (measured)
_LEVELS = 8  # of how sure a drafter is, each with a record of its own
_PRIOR = 2.0  # proposals for which a drafter's own word counts
_KEPT = 0.95  # what a step leaves of the record before it
_LONGEST_REST = 16  # steps for which a drafter that always misses is not asked


@dataclass(frozen=True)
class Drafting:
    """How texts are drafted.

    drafters: by name.
    members: for each the place of the member in the ensemble whose prefix it reads; None for one that reads the text.
    most: the longest draft, in tokens; 0 for none.
    cost: of one more token in a pass, as a share of a pass over one.
    adapts: whether rows share passes and drafts of any length change no bit of a text; asked where several are written.
    """

    drafters: tuple[Drafter, ...] = ()
    members: tuple[int | None, ...] = ()
    most: int = 0
    cost: float = COST
    adapts: Callable[[], bool] = bool

    def cost_beside(self, rows: int) -> float:
        """What one more token costs where so many rows are written, as a share of what one of them costs."""
        if rows < 2 or not self.adapts():
            return self.cost
        return self.cost * rows / (1 + self.cost * (rows - 1))


@dataclass
class _Record:
    """What became of one drafter's proposals; tensors of _LEVELS numbers.

    drawn: how many were drawn. judged: of how many.
    misses: drafts in a row of which nothing was drawn. rest: for how many steps it is not asked.
    """

    drawn: list[float] = field(default_factory=lambda: [0.0] * _LEVELS)
    judged: list[float] = field(default_factory=lambda: [0.0] * _LEVELS)
    misses: int = 0
    rest: int = 0

    def asked(self) -> bool:
        """Whether the drafter is asked at this step."""
        self.rest -= self.rest > 0
        return self.rest == 0

    def chance(self, sure: float) -> float:
        """How likely a proposal is to be drawn of which the drafter is so sure."""
        level = _level(sure)
        return (self.drawn[level] + _PRIOR * sure) / (self.judged[level] + _PRIOR)

    def learn(self, sure: Sequence[float], drawn: Sequence[bool]) -> None:
        """Judge the proposals of a draft up to the first that was not drawn."""
        for level in range(_LEVELS):
            self.drawn[level] *= _KEPT
            self.judged[level] *= _KEPT
        for how_sure, was in zip(sure, drawn, strict=True):
            self.drawn[_level(how_sure)] += was
            self.judged[_level(how_sure)] += 1
            if not was:
                break
        if drawn:
            self.misses = 0 if drawn[0] else self.misses + 1
            self.rest = 0 if drawn[0] else min(1 << self.misses >> 3, _LONGEST_REST)


def _level(sure: float) -> int:
    return min(int(sure * _LEVELS), _LEVELS - 1)


@dataclass(frozen=True)
class _Proposal:
    """What one drafter proposes for one row.

    drafter: its place. tokens: ids. sure: how sure it is of each.
    """

    drafter: int
    tokens: tuple[int, ...]
    sure: tuple[float, ...]


class Agreement:
    """Chooses between drafters, for each text by what became of their proposals since it began.

    Every proposal is judged, also of drafters that were not chosen, by the tokens that were drawn in its place. A row
    is drafted as it would be alone, unless it shares passes with others and its text cannot depend on drafts.
    """

    def __init__(self, drafting: Drafting, rows: int) -> None:
        """Begin without a record, when a drafter's own word counts."""
        self._drafting = drafting
        self._records = [[_Record() for _ in drafting.drafters] for _ in range(rows)]
        self._open: list[list[_Proposal]] = []

    def draft(self, canvas: Tensor, race: Race, room: Sequence[int], prefix_of: Callable[[int | None], Any]) -> Tensor:
        """The best draft for each canvas (B, L): (B, k) int64, -1 for none.

        room: the longest draft of each row. prefix_of: the prefix that a drafter reads.
        """
        most = [min(self._drafting.most, free) for free in room]
        self._open = [[] for _ in room]
        cost = self._drafting.cost_beside(sum(free > 0 for free in room))
        if max(most, default=0) < 1 or cost > _DEAREST:
            return canvas.new_empty(len(canvas), 0)
        for place, (drafter, member) in enumerate(zip(self._drafting.drafters, self._drafting.members, strict=True)):
            rows = zip(most, self._records, strict=True)
            asked = [free if free and records[place].asked() else 0 for free, records in rows]
            if any(asked):
                self._take(place, drafter.draft(canvas, race, max(asked), prefix_of(member)), asked)
        chosen = [self._best(row, cost) for row in range(len(room))]
        width = max(map(len, chosen))
        return torch.tensor([[*one, *[-1] * (width - len(one))] for one in chosen], device=canvas.device).long()

    def _take(self, place: int, draft: Draft, asked: Sequence[int]) -> None:
        """Keep what a drafter proposes, as many tokens a row as it was asked for."""
        rows = zip(draft.tokens.tolist(), draft.sure.tolist(), asked, self._open, strict=True)
        for tokens, sure, most, proposals in rows:
            length = next((i for i, token in enumerate(tokens[:most]) if token < 0), min(most, len(tokens)))
            if length:
                proposals.append(_Proposal(place, tuple(tokens[:length]), tuple(sure[:length])))

    def _best(self, row: int, cost: float) -> tuple[int, ...]:
        """The beginning of a proposal for a row by which most tokens may be expected in the time of a pass."""
        records = self._records[row]
        found = (_worthwhile(one, records[one.drafter], cost) for one in self._open[row])
        return max(found, default=(1.0, ()))[1]

    def learn(self, drawn: Sequence[Sequence[int]]) -> None:
        """Judge the latest proposals by the tokens that were drawn in each row."""
        for records, proposals, tokens in zip(self._records, self._open, drawn, strict=True):
            for one in proposals:
                was = [proposed == token for proposed, token in zip(one.tokens, tokens, strict=False)]
                records[one.drafter].learn(one.sure[: len(was)], was)


def _worthwhile(proposal: _Proposal, record: _Record, cost: float) -> tuple[float, tuple[int, ...]]:
    """How many tokens may be expected in the time of a pass over one, and those of its first tokens that give most."""
    chance, expected, best = 1.0, 1.0, (1.0, 0)
    for count, sure in enumerate(proposal.sure, 1):
        chance *= record.chance(sure)
        expected += chance
        best = max(best, (expected / (1 + cost * count), count))
    return best[0], proposal.tokens[: best[1]]
