"""Losses of ensembles: every rule, weight and schedule, from one prediction of each member.

A member's prediction on a noised canvas does not depend on how it is combined (self-conditioning is off), so each
member runs once, however many combinations are compared. All of them are measured on the same noise, so their
differences are known far more precisely than the losses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ssdcli.engine.ensemble.abstention import combine
from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.schedules import Constant, Schedule
from ssdcli.engine.ensemble.switching import Switching


@dataclass(frozen=True)
class Positions:
    """N positions of noised canvases whose clean tokens are predicted.

    tokens: (N,) int64, the clean tokens.
    levels: (N,) float32, the noise levels.
    shown: (N,) int64, the tokens that the canvas shows.
    text: the number of the text that holds them, where they are all of one.
    known: what a `Switching` knows after the positions of that text that were measured before, which are in order.
    """

    tokens: Tensor
    levels: Tensor
    shown: Tensor
    text: int = 0
    known: dict[Switching, Tensor] = field(default_factory=dict)

    def rows(self, chosen: Tensor) -> Positions:
        """Select positions: chosen (n,) int64."""
        return Positions(self.tokens[chosen], self.levels[chosen], self.shown[chosen], self.text, self.known)


@dataclass(frozen=True)
class Combined:
    """Predictions of the members that run, and how they are combined.

    rule: combines them.
    log_ps: (N, V) of each member.
    weights: one for each member, never zero; negative for a base under `contrast`.
    abstain: which members' log p is NaN at some positions, where the others predict without them; by default none's.
    positions: where, if the rule is `Switching`, which then learns what is there: so ask for log p once.
    """

    rule: Rule
    log_ps: Sequence[Tensor]
    weights: Sequence[float]
    abstain: Sequence[bool] = ()
    positions: Positions | None = None

    def log_p(self) -> Tensor:
        """Log p of every token: (N, V) float32."""
        if isinstance(self.rule, Switching):
            return self.rule.pooled(*self._followed(self.rule))
        return self._combined(self.log_ps)

    def _followed(self, rule: Switching) -> tuple[tuple[Tensor, ...], Tensor]:
        """What each of several ensembles predicts, (N, V), and the logarithms of their chances, (N, K)."""
        assert self.positions is not None
        tokens, known = self.positions.tokens, self.positions.known
        opinions = rule.opinions(self.log_ps, self.abstain or [False] * len(self.log_ps))
        before = known.get(rule, rule.even(1, tokens.device))
        chances = rule.followed(before, rule.of_tokens(opinions, tokens)[None])
        known[rule] = chances[:, -1]
        return opinions, chances[0, :-1]

    def log_p_of(self, tokens: Tensor) -> Tensor:
        """Log p of one token at each position: tokens (N,) int64 to (N,) float32."""
        own = tokens[:, None]
        if isinstance(self.rule, Switching):
            opinions, chances = self._followed(self.rule)
            return self.rule.pooled([said.gather(-1, own) for said in opinions], chances).squeeze(-1)
        if getattr(self.rule, "pointwise", False):  # it needs no other token's log p
            return self._combined([log_p.gather(-1, own) for log_p in self.log_ps]).squeeze(-1)
        return self.log_p().gather(-1, own).squeeze(-1)

    def _combined(self, log_ps: Sequence[Tensor]) -> Tensor:
        return combine(self.rule, log_ps, self.weights, self.abstain)


class Score(Protocol):
    """A loss at each position."""

    def __call__(self, combined: Combined, positions: Positions) -> Tensor:
        """Nats at each position, before they are weighted by the noise process: (N,)."""


def cross_entropy(combined: Combined, positions: Positions) -> Tensor:
    """-log p of the clean tokens: (N,)."""
    return -combined.log_p_of(positions.tokens)


@dataclass(frozen=True)
class Combination:
    """How members predict together, and what is measured.

    rule: combines their predictions.
    schedules: one for each member, in their order.
    score: the loss of the combined prediction.
    """

    rule: Rule
    schedules: tuple[Schedule, ...]
    score: Score = cross_entropy

    def weights(self, t: float) -> tuple[float, ...]:
        """Each member's weight at a noise level; zero for one that does not run."""
        return tuple(schedule(t) for schedule in self.schedules)


def alone(member: int, members: int) -> Combination:
    """The combination in which one of several members runs alone."""
    return Combination(mix, tuple(Constant(float(place == member)) for place in range(members)))


def combined_losses(
    log_ps: Sequence[Tensor],
    positions: Positions,
    combinations: Sequence[Combination],
    abstain: Sequence[bool] | None = None,
) -> Tensor:
    """Compute the loss of each of C combinations at N positions, NaN where nobody predicts: (N, C).

    Weights depend on the noise level alone, and the positions of a block share one, so there are few different levels.
    Combinations with the same score, rule and weights at a level (a sandwich and a constant weight in mid-trajectory,
    say) are computed once.

    log_ps: (N, V) of each member. abstain: whether each member's is NaN at some positions; by default none is.
    """
    levels, level_of = positions.levels.unique(return_inverse=True)
    wanted, may_abstain = _wanted(levels.tolist(), combinations), abstain or [False] * len(log_ps)
    losses = torch.zeros(len(positions.tokens), len(combinations), device=positions.tokens.device)
    for (score, rule, weights), uses in wanted.items():
        columns = uses.to(losses.device)[level_of]
        rows = columns.any(1).nonzero().squeeze(1)
        here = positions.rows(rows)
        running = [place for place, w in enumerate(weights) if w != 0]
        # Most combinations have the same weights at all levels, so that all rows are used and nothing is copied.
        said = [log_ps[i] if len(rows) == len(log_ps[i]) else log_ps[i][rows] for i in running]
        combined = Combined(rule, said, [weights[i] for i in running], [may_abstain[i] for i in running], here)
        loss = score(combined, here)
        losses[rows] = torch.where(columns[rows], loss[:, None], losses[rows])
    return losses


def combined_log_p(
    log_ps: Sequence[Tensor], positions: Positions, combination: Combination, abstain: Sequence[bool]
) -> Tensor:
    """Log p of every token under a combination at N positions, NaN where nobody predicts: (N, V) float32."""
    levels, level_of = positions.levels.unique(return_inverse=True)
    found, by_level = torch.empty_like(log_ps[0]), [combination.weights(level) for level in levels.tolist()]
    for weights in dict.fromkeys(by_level):
        running = [member for member, w in enumerate(weights) if w != 0]
        rows = torch.tensor([own == weights for own in by_level], device=found.device)[level_of]
        said, may_abstain = [log_ps[i][rows] for i in running], [abstain[i] for i in running]
        here = positions.rows(rows.nonzero()[:, 0])
        combined = Combined(combination.rule, said, [weights[i] for i in running], may_abstain, here)
        found[rows] = combined.log_p()
    return found


_Work = tuple[Score, Rule, tuple[float, ...]]


def _wanted(levels: Sequence[float], combinations: Sequence[Combination]) -> dict[_Work, Tensor]:
    """What has to be computed, and the levels and combinations that need it: (levels, C) bool."""
    wanted: dict[_Work, Tensor] = {}
    for column, combination in enumerate(combinations):
        for place, level in enumerate(levels):
            work = combination.score, combination.rule, combination.weights(level)
            uses = wanted.setdefault(work, torch.zeros(len(levels), len(combinations), dtype=torch.bool))
            uses[place, column] = True
    return wanted
