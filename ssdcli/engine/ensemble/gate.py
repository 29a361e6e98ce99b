"""Gates: the members' weights position by position, from their entropies. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.ensemble.schedules import Constant, Schedule

FARTHEST = 50.0  # a gate's numbers are between plus and minus this


@dataclass(frozen=True)
class Gate:
    """Position-wise weights of two members that `mix`: four numbers, fitted on text.

    The log-odds of the small model against its core at a position are
    bias + level (t - 1/2) + core H_core + small H_small, H being the entropy, in nats, of a member's prediction there.

    bias: at t = 1/2, when both are certain.
    level: the slope in the noise level.
    core: the slope in the core's entropy.
    small: the slope in the small model's.
    """

    bias: float
    level: float
    core: float
    small: float

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The core's and the small model's: the part of the log-odds that depends on the noise level alone."""
        rule = catalogue.needing("gate")
        if rule.schedule is None:
            raise ValueError(f"a gate needs a schedule, and {rule.name} declares none")
        own: Schedule = catalogue.schedule(rule.schedule).load()(math.exp(self.bias), self.level)
        return Constant(1.0), own


@dataclass(frozen=True)
class AverageGate:
    """Position-wise weights of M members whose probabilities are averaged.

    The weights at a position are a softmax of the members' scores. The first member's score is 0; another's is
    c_0 + sum_i (a_i H_i + b_i exp(-H_i)), H_i being the entropy of member i there, in nats, and exp(-H_i) the inverse
    of its perplexity.

    members: their roles, the core first.
    weights: constant ones, which sum to 1, for positions where a member abstains and for rules without a gate.
    coefficients: for each member but the first, c_0, all a_i, and all b_i.
    is_default: whether it won against the constant weights, so that it is used unless another rule is named.
    confidence: in what the members write as they do by default; None where none was fitted.
    """

    members: tuple[Role, ...]
    weights: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    is_default: bool = False
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        width = 1 + 2 * len(self.members)
        lengths = [len(row) for row in self.coefficients]
        if len(self.weights) != len(self.members) or lengths != [width] * (len(self.members) - 1):
            raise ValueError(f"a gate of {len(self.members)} members has rows of {width} coefficients, not {lengths}")

    def schedules(self) -> tuple[Schedule, ...]:
        """Each member's constant weight, at all noise levels."""
        return tuple(map(Constant, self.weights))


AnyGate = Gate | AverageGate


@dataclass(frozen=True)
class Expert:
    """One of several ensembles: a small model, an adapter or a memory with what joins it, as it would write alone.

    name: of that model.
    members: the places of its members among all.
    weights: their constant ones, above zero.
    gate: weighs them at each position; None for constant weights.
    """

    name: str
    members: tuple[int, ...]
    weights: tuple[float, ...]
    gate: AverageGate | None = None


def gate_of(gates: Sequence[AverageGate], members: Sequence[Role]) -> AverageGate | None:
    """The gate that was fitted for members of these roles, in this order."""
    return next((gate for gate in gates if gate.members == tuple(members)), None)


PUBLIC_GATE = AverageGate(
    members=("core", "memory"),
    weights=(0.83, 0.17),
    coefficients=((-3.04, 0.48, -0.25, -0.47, 3.37),),
    is_default=True,
)
"""A causal core's and a memory's, fitted on public notes (`python -m benchmarks memory --parts public`)."""

CONTEXT_GATE = AverageGate(
    members=("core", "memory"),
    weights=(0.59, 0.41),
    coefficients=((-0.88, 0.38, -0.56, -2.31, 4.32),),
    is_default=True,
)
"""A causal core's and that of a memory of a private context, which its user names on purpose: bolder than PUBLIC_GATE.

It was fitted on notes beside related ones, and on answers that stand in a context, a fifth of all tokens
(docs/lab/private_context.md).
"""
