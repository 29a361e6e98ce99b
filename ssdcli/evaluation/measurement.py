"""What an evaluation found. Needs neither torch nor numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ssdcli.engine.ensemble.gate import AverageGate, Gate
from ssdcli.engine.ensemble.members import Member, Role

if TYPE_CHECKING:
    from ssdcli.evaluation.calibration import CalibrationResult
    from ssdcli.evaluation.next_words import ClozeResult

ENSEMBLE = "ensemble"  # as an author

OnProgress = Callable[[str, float], None]  # called with what is being done, and the share of it that is done


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% confidence interval.

    value: the number.
    margin: half the width of the interval, nan for a single document.
    """

    value: float
    margin: float

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.value - self.margin

    @property
    def high(self) -> float:
        """The upper end of the interval."""
        return self.value + self.margin

    def to_json(self) -> dict[str, float | None]:
        """The value and both ends, None for what is not finite."""
        named = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in named.items()}


@dataclass(frozen=True)
class Figures:
    """How well something predicts the text.

    bits: per UTF-8 byte.
    nats: the mean denoising loss over the noise level, or the code length, in nats per token.
    by_level: bits per byte in bins of the noise level, from 0 to 1; nan for a bin to which no token was noised, without
        an interval where too few documents were. None for a code length, which has no noise.
    """

    bits: Estimate
    nats: Estimate
    by_level: tuple[Estimate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The estimates with the ends of their intervals."""
        return {
            "bits_per_byte": self.bits.to_json(),
            "nats_per_token": self.nats.to_json(),
            "by_level": [_finite(one.value) for one in self.by_level],
            "by_level_margin": [_finite(one.margin) for one in self.by_level],
        }


@dataclass(frozen=True)
class MemberResult:
    """A member alone.

    member: its name and role.
    figures: its losses.
    """

    member: Member[None]
    figures: Figures

    @property
    def name(self) -> str:
        """The member's name."""
        return self.member.name

    @property
    def role(self) -> Role:
        """The member's role."""
        return self.member.role


@dataclass(frozen=True)
class SweepPoint:
    """An ensemble at one weight.

    weight: of the first small model; None where a gate or a file sets the weights.
    figures: the ensemble's losses.
    """

    weight: float | None
    figures: Figures


@dataclass(frozen=True)
class SweepResult:
    """One rule and schedule at several weights.

    rule: how predictions are combined.
    schedule: when members run; None where a gate sets the weights at each position.
    points: one for each weight.
    gain: bits per byte that the best weight saves over the best member, on documents that had no part in choosing it.
    """

    rule: str
    schedule: str | None
    points: tuple[SweepPoint, ...]
    gain: Estimate

    @property
    def name(self) -> str:
        """The rule, and the schedule where there is one."""
        return self.rule if self.schedule is None else f"{self.rule}, {self.schedule}"

    @property
    def over_weights(self) -> bool:
        """Whether the first small model's weight was swept; otherwise a gate or a file sets it."""
        return self.points[0].weight is not None

    @property
    def best(self) -> SweepPoint:
        """The point with the fewest bits per byte over all documents."""
        return min(self.points, key=lambda point: point.figures.bits.value)

    def to_json(self) -> dict[str, Any]:
        """All points, the weight of the best one, and the gain."""
        return {
            "rule": self.rule,
            "schedule": self.schedule,
            "weight": self.best.weight,
            "gain": self.gain.to_json(),
            "sweep": [{"weight": point.weight} | point.figures.to_json() for point in self.points],
        }


@dataclass(frozen=True)
class GateResult:
    """What a gate is worth, in bits per byte of documents that it was not fitted to.

    gate: fitted to all documents.
    constant: at constant weights.
    gated: by the gate.
    oracle: by the member that is best at each token, which nobody knows beforehand.
    """

    gate: AverageGate
    constant: Estimate
    gated: Estimate
    oracle: Estimate

    def to_json(self) -> dict[str, Any]:
        """Members, constant weights, whether the gate won, and the estimates."""
        return {
            "members": list(self.gate.members),
            "weights": list(self.gate.weights),
            "at_weights": self.constant.to_json(),
            "by_gate": self.gated.to_json(),
            "oracle": self.oracle.to_json(),
            "is_default": self.gate.is_default,
        }


@dataclass(frozen=True)
class TextMeasures:
    """Measures of the texts that one author wrote after beginnings of documents.

    name: the author.
    count: how many texts there are.
    values: by the names in `generated.METRICS`; None for what was not measured.
    """

    name: str
    count: int
    values: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Name, count and values, None for what is not finite."""
        values = {name: None if value is None else _finite(value) for name, value in self.values.items()}
        return {"name": self.name, "count": self.count, **values}


@dataclass(frozen=True)
class TrainedDocument:
    """A document that members were trained on.

    document: where it was read from.
    members: the models that were trained on some of it.
    share: of its characters, those that any of them was trained on.
    """

    document: str
    members: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class TrainedText:
    """Which of the text the members were trained on.

    included: whether it was measured anyway.
    unknown: members whose training text is not known here.
    documents: those that a member was trained on, in the order of reading.
    """

    included: bool = False
    unknown: tuple[str, ...] = ()
    documents: tuple[TrainedDocument, ...] = ()

    @property
    def members(self) -> list[str]:
        """The models that were trained on some of the text."""
        return list(dict.fromkeys(name for one in self.documents for name in one.members))


@dataclass(frozen=True)
class Evaluation:
    """Everything that an evaluation found.

    core: its name, None without one.
    small: the small model whose weight was swept, if any.
    process: the noise process of all members.
    measure: what bits per byte are of: CODE_LENGTH; NELBO, which bounds it from above; or DENOISING_LOSS, which does
        not.
    members: each alone.
    ensembles: each rule and schedule over the weights.
    gain: of the best ensemble over the best member, measured on documents that had no part in choosing the rule, the
        schedule or the weight.
    documents: how many were measured.
    tokens: how many of theirs were predicted.
    bytes: the length of the predicted text in UTF-8.
    seed: of documents, noise and texts.
    seconds: how long it took.
    generated: measures of the documents' own texts, then of what the members wrote.
    remarks: sentences about what was left out and why.
    fitted: the small model's gate, fitted on these documents.
    gates: those of a causal core and its members, likewise, the largest set of members first.
    trained: which of the documents the members were trained on.
    calibration: how often what each author and the ensemble write is right, beside how sure they are of it.
    cloze: how their next words agree with those that the text gives.
    """

    core: str | None
    small: str | None
    process: str
    measure: str
    members: tuple[MemberResult, ...]
    ensembles: tuple[SweepResult, ...]
    gain: Estimate | None
    documents: int
    tokens: int
    bytes: int
    seed: int
    seconds: float
    generated: tuple[TextMeasures, ...] = ()
    remarks: tuple[str, ...] = ()
    fitted: Gate | None = None
    gates: tuple[GateResult, ...] = ()
    trained: TrainedText = TrainedText()
    calibration: tuple[CalibrationResult, ...] = ()
    cloze: tuple[ClozeResult, ...] = ()

    @property
    def better(self) -> MemberResult:
        """The member that predicts best by itself."""
        return min((one for one in self.members if one.role != "base"), key=lambda member: member.figures.bits.value)

    @property
    def best(self) -> SweepResult | None:
        """The rule and schedule with the fewest bits per byte."""
        return min(self.ensembles, key=lambda swept: swept.best.figures.bits.value, default=None)

    @property
    def best_gate(self) -> GateResult | None:
        """The gate with the fewest bits per byte, of those that won."""
        won = (one for one in self.gates if one.gate.is_default)
        return min(won, key=lambda one: one.gated.value, default=None)

    @property
    def tuned_weight(self) -> float | None:
        """The best weight of the first rule and schedule, by default those of `ssd generate`."""
        return self.ensembles[0].best.weight if self.ensembles else None

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd eval --json` writes."""
        best = self.best
        return {
            "core": self.core,
            "small": self.small,
            "process": self.process,
            "measure": self.measure,
            "members": [{"name": one.name, "role": one.role} | one.figures.to_json() for one in self.members],
            "better_member": self.better.name,
            "ensembles": [swept.to_json() for swept in self.ensembles],
            "best": None if best is None or self.gain is None else _best(best, self.gain),
            "gates": [gate.to_json() for gate in self.gates],
            "generated": [texts.to_json() for texts in self.generated],
            "calibration": [one.to_json() for one in self.calibration],
            "cloze": [one.to_json() for one in self.cloze],
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "trained": asdict(self.trained),
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "remarks": list(self.remarks),
        }


def _best(swept: SweepResult, gain: Estimate) -> dict[str, Any]:
    chosen = {"rule": swept.rule, "schedule": swept.schedule, "weight": swept.best.weight}
    return chosen | {"bits_per_byte": swept.best.figures.bits.to_json(), "gain": gain.to_json()}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def by_weight(ensembles: Sequence[SweepResult]) -> dict[float, list[SweepPoint | None]]:
    """The points of all ensembles by weight, in rising order; None where one was not measured."""
    weights = sorted({point.weight for swept in ensembles for point in swept.points if point.weight is not None})
    tables = [{point.weight: point for point in swept.points} for swept in ensembles]
    return {weight: [table.get(weight) for table in tables] for weight in weights}
