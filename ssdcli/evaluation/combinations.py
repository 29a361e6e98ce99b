"""Losses of ensembles: every rule, weight and schedule, from one prediction of each member.

A member's prediction on a noised canvas does not depend on how it is combined (self-conditioning is off), so that each
member runs once however many combinations are compared. They are compared on the same noise, which is why their
differences are far more certain than the losses themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssdcli.engine.ensemble.rules import Rule, mix
from ssdcli.engine.ensemble.schedules import Constant, Schedule


@dataclass(frozen=True)
class Positions:
    """N positions of noised canvases whose clean tokens are predicted.

    tokens: (N,) int64, the clean tokens.
    levels: (N,) float32, the noise levels.
    shown: (N,) int64, the tokens that the canvas shows.
    """

    tokens: Tensor
    levels: Tensor
    shown: Tensor

    def rows(self, chosen: Tensor) -> Positions:
        """Select positions: chosen (n,) int64."""
        return Positions(self.tokens[chosen], self.levels[chosen], self.shown[chosen])


@dataclass(frozen=True)
class Combined:
    """Predictions of the members that run, and how they are combined.

    rule: combines them.
    log_ps: (N, V) of each member.
    weights: of each member, never zero; below zero for a base under `contrast`.
    """

    rule: Rule
    log_ps: Sequence[Tensor]
    weights: Sequence[float]

    def log_p(self) -> Tensor:
        """Log p of every token: (N, V) float32."""
        return self.rule(self.log_ps, self.weights)

    def log_p_of(self, tokens: Tensor) -> Tensor:
        """Log p of one token at each position: tokens (N,) int64 to (N,) float32."""
        own = tokens[:, None]
        if getattr(self.rule, "pointwise", False):  # needs no other token, and no pass over the vocabulary
            return self.rule([log_p.gather(-1, own) for log_p in self.log_ps], self.weights).squeeze(-1)
        return self.log_p().gather(-1, own).squeeze(-1)


class Score(Protocol):
    """A loss at each position."""

    def __call__(self, combined: Combined, positions: Positions) -> Tensor:
        """Nats at each position, before the process weights them: (N,)."""
        ...


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


def combined_losses(log_ps: Sequence[Tensor], positions: Positions, combinations: Sequence[Combination]) -> Tensor:
    """Compute the loss of each of C combinations at N positions: (N, C).

    log_ps: (N, V) of each member. Weights depend on the noise level, and levels come in blocks, so that few of them are
    different. Combinations with the same score, rule and weights at a level (a sandwich and a constant weight in the
    middle, say) are computed together, once.
    """
    levels, level_of = positions.levels.unique(return_inverse=True)
    wanted = _wanted(levels.tolist(), combinations)
    losses = torch.zeros(len(positions.tokens), len(combinations), device=positions.tokens.device)
    for (score, rule, weights), uses in wanted.items():
        columns = uses.to(losses.device)[level_of]
        rows = columns.any(1).nonzero().squeeze(1)
        here = positions.rows(rows)
        running = [(log_p, w) for log_p, w in zip(log_ps, weights, strict=True) if w != 0]
        # Most combinations have the same weights at all levels: then all rows are used and nothing is copied.
        said = [log_p if len(rows) == len(log_p) else log_p[rows] for log_p, _ in running]
        loss = score(Combined(rule, said, [w for _, w in running]), here)
        losses[rows] = torch.where(columns[rows], loss[:, None], losses[rows])
    return losses


_Work = tuple[Score, Rule, tuple[float, ...]]


def _wanted(levels: Sequence[float], combinations: Sequence[Combination]) -> dict[_Work, Tensor]:
    """List what is to be computed, each with the levels and combinations that need it: (levels, C) bool."""
    wanted: dict[_Work, Tensor] = {}
    for column, combination in enumerate(combinations):
        for place, level in enumerate(levels):
            work = combination.score, combination.rule, combination.weights(level)
            uses = wanted.setdefault(work, torch.zeros(len(levels), len(combinations), dtype=torch.bool))
            uses[place, column] = True
    return wanted
