"""Member schedules: a member's weight as a function of the noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ssdcli.engine import catalogue

_ROUNDING = 1e-9  # levels are quotients and differences: one that is meant to lie on a bound may miss it by this much


class Schedule(Protocol):
    """A member's weight as a function of the noise level."""

    def __call__(self, t: float) -> float:
        """The weight at t in [0, 1]; zero means that the member is not run."""


@dataclass(frozen=True)
class Constant:
    """The same weight at every noise level."""

    weight: float

    def __call__(self, t: float) -> float:
        """The weight."""
        return self.weight


@dataclass(frozen=True)
class Leaning:
    """A weight that grows with the noise: `weight` at t = 1/2.

    Where weights are shares (mix, average), a member's log-odds against constant others are a straight line in t:
    log(w e^(slope (t - 1/2)) / (1 - w)) = logit w + slope (t - 1/2).

    weight: at t = 1/2.
    slope: of the log-odds.
    """

    weight: float
    slope: float

    def __call__(self, t: float) -> float:
        """The weight at t = 1/2, times e^(slope (t - 1/2))."""
        return self.weight * math.exp(self.slope * (t - 0.5))


def sharing(share: float, process: str) -> tuple[Schedule, Schedule]:
    """The default schedules of a core and a small model that has this share of the weight."""
    declared = catalogue.schedule(catalogue.process(process).schedule)
    number = {} if declared.number is None else {declared.number.name: declared.number.default}
    own: Schedule = declared.load()(share, **number)
    return Constant(1 - share), own if share < 1 else Constant(share)


@dataclass(frozen=True)
class Sandwich:
    """A heavy member's weight: zero in the first and the last part of the trajectory, `weight` between them.

    weight: in the middle.
    light: the share of the trajectory without it, in [0, 1], half of it at each end. "Not All Denoising Steps Are
        Equal" (Sedykh, Sorokin and Malykh, 2026) takes 1/4.
    """

    weight: float
    light: float

    def __call__(self, t: float) -> float:
        """The weight where light / 2 < t <= 1 - light / 2, else zero: t is where a step begins."""
        return self.weight if self.light / 2 < t - _ROUNDING <= 1 - self.light / 2 else 0.0


@dataclass(frozen=True)
class Late:
    """A heavy member's weight: zero in the first part of the trajectory, `weight` after it.

    weight: in the rest.
    light: the share of the trajectory without it, in [0, 1].
    """

    weight: float
    light: float

    def __call__(self, t: float) -> float:
        """The weight where t <= 1 - light, else zero: t is where a step begins."""
        return self.weight if t - _ROUNDING <= 1 - self.light else 0.0


@dataclass(frozen=True)
class Piecewise:
    """Straight lines between points (t, weight), in falling order of t (else ValueError); constant outside them."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        levels = [t for t, _ in self.points]
        if not levels or any(t <= s for t, s in pairwise(levels)):
            raise ValueError("the points of a schedule must have falling noise levels, and there must be one")

    def __call__(self, t: float) -> float:
        """The weight on the line through the two points around t."""
        (first_t, first), (last_t, last) = self.points[0], self.points[-1]
        if t >= first_t:
            return first
        if t <= last_t:
            return last
        (t0, w0), (t1, w1) = next(pair for pair in pairwise(self.points) if pair[1][0] <= t)
        return w1 + (w0 - w1) * (t - t1) / (t0 - t1)
