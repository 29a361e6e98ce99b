"""A member of an ensemble: what it is called, its role, its weight, and when it runs. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from ssdcli.engine.ensemble.schedules import Schedule

Role = Literal["core", "small", "base", "memory"]

Model_co = TypeVar("Model_co", covariant=True)
Other = TypeVar("Other")


@dataclass(frozen=True)
class Member(Generic[Model_co]):
    """One model of an ensemble, from the command line to the result.

    name: unique in the ensemble.
    model: the model, as far as it is known at this stage: its files, loaded with its tokenizer, or a denoiser alone.
    schedule: the weight at each noise level, never below zero.
    role: the core, a small model, the base that a contrast compares a small model with, or a memory of the user's text.
    weight: the nominal weight, never below zero.
    """

    name: str
    model: Model_co
    schedule: Schedule
    role: Role = "core"
    weight: float = 1.0

    @property
    def sees_context(self) -> bool:
        """Whether it reads private context: small models and memories do, cores and bases never."""
        return self.role in ("small", "memory")

    def weight_at(self, t: float) -> float:
        """The weight that a rule gets for it at noise level t: a base's is negated; zero means that it does not run."""
        return self.signed(self.schedule(t))

    def signed(self, weight: float) -> float:
        """A weight as the engine encodes it for a rule, and as reports show it: a base's is negated.

        Rules get no roles, so the sign alone tells them which predictions to subtract.
        """
        return -weight if self.role == "base" else weight

    def carrying(self, model: Other) -> Member[Other]:
        """The same member with its model at another stage."""
        return Member(self.name, model, self.schedule, self.role, self.weight)
