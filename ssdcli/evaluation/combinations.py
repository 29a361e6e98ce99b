"""What members lose together: every rule, weight and schedule from the same predictions of each member."""

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

    tokens: (N,) int64, the clean ones. levels: (N,) float32, each one's noise level. shown: (N,) int64, the token that
    the canvas shows there.
    """

    tokens: Tensor
    levels: Tensor
    shown: Tensor

    def rows(self, chosen: Tensor) -> Positions:
        """Some of the positions: chosen (n,) int64."""
        return Positions(self.tokens[chosen], self.levels[chosen], self.shown[chosen])


@dataclass(frozen=True)
class Combined:
    """Predictions of the members that run, log_ps of (N, V) each, to be combined by a rule and weights above zero.

    Only under `contrast` are there weights below zero.
    """

    rule: Rule
    log_ps: Sequence[Tensor]
    weights: Sequence[float]

    def log_p(self) -> Tensor:
        """Of all tokens: (N, V) float32."""
        return self.rule(self.log_ps, self.weights)

    def log_p_of(self, tokens: Tensor) -> Tensor:
        """Of one token at each position: tokens (N,) int64 to (N,) float32."""
        own = tokens[:, None]
        if getattr(self.rule, "pointwise", False):
            return self.rule([log_p.gather(-1, own) for log_p in self.log_ps], self.weights).squeeze(-1)
        return self.log_p().gather(-1, own).squeeze(-1)


class Score(Protocol):
    """What a prediction costs."""

    def __call__(self, combined: Combined, positions: Positions) -> Tensor:
        """Nats at each position, before the process's own weight of it: (N,)."""
        ...


def cross_entropy(combined: Combined, positions: Positions) -> Tensor:
    """Minus log p of the clean tokens: (N,)."""
    return -combined.log_p_of(positions.tokens)


@dataclass(frozen=True)
class Combination:
    """How members predict together: a rule, a schedule for each in the members' order, and what is measured of it."""

    rule: Rule
    schedules: tuple[Schedule, ...]
    score: Score = cross_entropy

    def weights(self, t: float) -> tuple[float, ...]:
        """Each member's weight at a noise level; zero for one that does not run."""
        return tuple(schedule(t) for schedule in self.schedules)


def alone(member: int, members: int) -> Combination:
    """One of several members by itself."""
    return Combination(mix, tuple(Constant(float(place == member)) for place in range(members)))


def combined_losses(log_ps: Sequence[Tensor], positions: Positions, combinations: Sequence[Combination]) -> Tensor:
    """What each of C combinations loses at N positions, each at the weights of its level: (N, C).

    log_ps: (N, V) of each member. What several combinations do alike at a level is computed once.
    """
    levels, level_of = positions.levels.unique(return_inverse=True)
    wanted = _wanted(levels.tolist(), combinations)
    losses = torch.zeros(len(positions.tokens), len(combinations), device=positions.tokens.device)
    for (score, rule, weights), uses in wanted.items():
        columns = uses.to(losses.device)[level_of]
        rows = columns.any(1).nonzero().squeeze(1)
        here = positions.rows(rows)
        running = [(log_p, w) for log_p, w in zip(log_ps, weights, strict=True) if w != 0]
        # Most weights are the same at all levels: then nothing is copied.
        said = [log_p if len(rows) == len(log_p) else log_p[rows] for log_p, _ in running]
        loss = score(Combined(rule, said, [w for _, w in running]), here)
        losses[rows] = torch.where(columns[rows], loss[:, None], losses[rows])
    return losses


_Work = tuple[Score, Rule, tuple[float, ...]]


def _wanted(levels: Sequence[float], combinations: Sequence[Combination]) -> dict[_Work, Tensor]:
    """What is to be computed, and the levels and combinations that need it: (levels, C) bool."""
    wanted: dict[_Work, Tensor] = {}
    for column, combination in enumerate(combinations):
        for place, level in enumerate(levels):
            work = combination.score, combination.rule, combination.weights(level)
            uses = wanted.setdefault(work, torch.zeros(len(levels), len(combinations), dtype=torch.bool))
            uses[place, column] = True
    return wanted
