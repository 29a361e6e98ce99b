"""The comparison of members and ensembles: what is measured of each, and what the losses tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ssdcli.engine.ensemble.members import Role
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.engine.ensemble.switching import Switching
from ssdcli.engine.process import Process
from ssdcli.evaluation.candidates import Candidates
from ssdcli.evaluation.combinations import Combination, Combined, Positions, Score, alone, cross_entropy
from ssdcli.evaluation.estimates import gain, ratio
from ssdcli.evaluation.gating import GateFitter
from ssdcli.evaluation.joint_gate import GateObserver
from ssdcli.evaluation.losses import Losses, LossesByLevel
from ssdcli.evaluation.measurement import (
    Estimate,
    Figures,
    MemberResult,
    SweepPoint,
    SweepResult,
)
from ssdcli.generation.selection import EnsembleSpec
from ssdcli.registry.manifest import CODE_LENGTH, DENOISING_LOSS, NELBO

_OBSERVED: tuple[Role, ...] = ("core", "small", "memory")


@dataclass(frozen=True)
class Comparison:
    """What is compared: every member, and every point of every sweep, each a column of the losses.

    candidates: the members and sweeps.
    measure: what their bits per byte are of.
    combinations: one for each column; then once more with the denoising loss, where that is not the measure.
    """

    candidates: Candidates
    measure: str
    combinations: tuple[Combination, ...]

    @classmethod
    def of(cls, candidates: Candidates, process: Process, *, exact: bool = False) -> Comparison:
        """List everything that is to be measured; exact: by code lengths."""
        measure, score = (CODE_LENGTH, cross_entropy) if exact else bound_of(process)
        names = [member.name for member in candidates.members]
        members = [alone(place, len(names)) for place in range(len(names))]
        points = [_combination(spec, names) for sweep in candidates.sweeps for spec in sweep.specs]
        own = [replace(one, score=score) for one in (*members, *points)]
        plain = [] if score is cross_entropy else [*members, *points]
        return cls(candidates, measure, (*own, *plain))

    def watched(self, fitter: GateFitter) -> list[Combination]:
        """The combination that shows the fitter a core and its only small model; none if there are others."""
        roles = [member.role for member in self.candidates.members]
        if not roles.count("core") == roles.count("small") == 1 or "memory" in roles:
            return []
        return [fitter.combination(roles)]

    def observer(self, silent: Sequence[str] = ()) -> GateObserver | None:
        """What fits joint gates to a core, a small model and a memory; None if there are others, or not two.

        silent: the names of members that predict nothing.
        """
        roles = [member.role for member in self.candidates.members if member.name not in silent]
        members = tuple(role for role in _OBSERVED if role in roles)
        once = all(roles.count(role) == 1 for role in members)
        return GateObserver(members) if once and "core" in members and len(members) > 1 else None

    def observed(self, observer: GateObserver) -> Combination:
        """The combination that shows the observer its members."""
        return observer.combination([member.role for member in self.candidates.members])

    def members(self, losses: Losses) -> tuple[MemberResult, ...]:
        """Each member's figures alone."""
        members = enumerate(self.candidates.members)
        return tuple(MemberResult(one.carrying(None), self._figures(losses, column)) for column, one in members)

    def ensembles(self, losses: Losses) -> tuple[SweepResult, ...]:
        """The figures of each rule and schedule over the weights, and its gain over the best member."""
        return tuple(self._swept(losses))

    def gain(self, losses: Losses) -> Estimate | None:
        """The gain of the best ensemble over the best member; None if there is no ensemble."""
        first, last = len(self.candidates.members), self._count
        return None if first == last else self._gain(losses, range(first, last))

    def best(self, losses: Losses) -> EnsembleSpec | None:
        """The ensemble with the lowest loss; None if there is none."""
        specs = [spec for sweep in self.candidates.sweeps for spec in sweep.specs]
        sums = losses.sums[:, len(self.candidates.members) : self._count].sum(0)
        return specs[int(sums.argmin())] if specs else None

    @property
    def _count(self) -> int:
        return len(self.candidates.members) + sum(len(sweep.specs) for sweep in self.candidates.sweeps)

    def _swept(self, losses: Losses) -> Iterator[SweepResult]:
        first = len(self.candidates.members)
        for sweep in self.candidates.sweeps:
            columns = range(first, first + len(sweep.specs))
            first = columns.stop
            points = [
                SweepPoint(weight, self._figures(losses, column))
                for weight, column in zip(sweep.weights, columns, strict=True)
            ]
            yield SweepResult(sweep.rule, sweep.varying_schedule, tuple(points), self._gain(losses, columns))

    def _gain(self, losses: Losses, columns: Sequence[int]) -> Estimate:
        """The bits per byte that the best of some columns saves over the best member (see `gain`)."""
        own = [column for column, member in enumerate(self.candidates.members) if member.role != "base"]
        return gain(losses.sums[:, own], losses.sums[:, list(columns)], losses.bytes)

    def _figures(self, losses: Losses, column: int) -> Figures:
        plain = column + len(self.combinations) - self._count
        return Figures(
            bits=ratio(losses.sums[:, column] / math.log(2), losses.bytes),
            nats=ratio(losses.sums[:, plain], losses.tokens),
            by_level=_by_level(losses, column) if isinstance(losses, LossesByLevel) else (),
        )


def _by_level(losses: LossesByLevel, column: int) -> tuple[Estimate, ...]:
    """Bits per byte in each bin of levels."""
    per_byte = losses.tokens.sum() / losses.bytes.sum() / math.log(2)
    parts = losses.nats_by_level()[:, column] * per_byte, losses.level_margins[:, column] * per_byte
    return tuple(Estimate(float(value), float(margin)) for value, margin in zip(*parts, strict=True))


def _combination(spec: EnsembleSpec, names: Sequence[str]) -> Combination:
    """An ensemble as a combination of all members: those that it lacks have weight 0."""
    own = {member.name: member.weight_at for member in spec.members}
    rule, running = spec.rule, [name for name in names if name in own]
    if isinstance(rule, Switching):  # the order of an adapter and its core differs
        rule = rule.among([running.index(member.name) for member in spec.members])
    return Combination(rule, tuple(own.get(name, Constant(0.0)) for name in names))


def bound_of(process: Process) -> tuple[str, Score]:
    """The name and the score of the tightest measure that a process has: its NELBO where there is one."""
    nelbo = process.nelbo

    def terms(combined: Combined, positions: Positions) -> Tensor:
        assert nelbo is not None
        return nelbo(combined.log_p(), positions.tokens, positions.shown, positions.levels)

    return NELBO if process.bounded else DENOISING_LOSS, cross_entropy if nelbo is None else terms
