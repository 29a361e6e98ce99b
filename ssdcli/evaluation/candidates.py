"""Which ensembles are measured: every rule and schedule that fits the members, at several weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.gate import AverageGate
from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import SsdError, UsageError, require
from ssdcli.evaluation.eval_settings import EvalSettings
from ssdcli.evaluation.losses import GRID
from ssdcli.generation.blend import Blend
from ssdcli.generation.lineup import ModelFiles, without_noise
from ssdcli.generation.parts import CONTEXT, OF_MEMORY, SmallModels
from ssdcli.generation.schedule_parser import among, goes_with, named
from ssdcli.generation.selection import EnsembleSpec, choose
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Registry


@dataclass(frozen=True)
class Sweep:
    """A rule and a schedule at several weights of the first small model.

    rule: how predictions are combined.
    schedule: when members run.
    weights: of the first small model; a single None where a gate or a file sets them.
    specs: the ensemble at each weight.
    """

    rule: str
    schedule: str
    weights: tuple[float | None, ...]
    specs: tuple[EnsembleSpec, ...]

    @property
    def varying_schedule(self) -> str | None:
        """The schedule; None where a gate sets the weights at each position, whatever the noise level."""
        spec = self.specs[0]
        return None if isinstance(spec.gate, AverageGate) or spec.experts else self.schedule


@dataclass(frozen=True)
class Candidates:
    """What is measured.

    core: its name, None without one.
    small: the small models and their weights.
    members: every model alone; a model that also runs without private context is listed twice.
    sweeps: the ensembles.
    authors: the core and the small models alone, by name.
    usual: all of them, as they write unless a rule or a weight is named.
    """

    core: str | None
    small: tuple[tuple[str, float], ...]
    members: tuple[Member[ModelFiles], ...]
    sweeps: tuple[Sweep, ...]
    authors: dict[str, EnsembleSpec]
    usual: EnsembleSpec

    @property
    def learner(self) -> Member[ModelFiles]:
        """The model whose training text must not be measured: the first small model, or else the core."""
        return next((member for member in self.members if member.name == self.first), self.members[0])

    @property
    def first(self) -> str | None:
        """The small model whose weight is swept."""
        return self.small[0][0] if self.small else None


def find_candidates(core: str | None, members: SmallModels, settings: EvalSettings, registry: Registry) -> Candidates:
    """Find the models and what can be measured of them, from manifests alone; raises what `choose` raises."""
    plain = choose(core, members, registry, context=bool(settings.context))
    remote = next((one.name for one in plain.members if one.model.entry.manifest.is_remote), None)
    remedy = f"Measure with --core {NO_CORE}, or beside a core of the same tokenizer on this machine."
    require(remote is None, f"{remote!r} runs on another machine, and would be sent the text to measure.", remedy)
    small = [one for one in plain.members if one.sees_context or (one.role == "core" and one.name != plain.core)]
    if settings.context and not small:
        raise UsageError("only small models and memories see private context.", "Name one with --with.")
    process = plain.members[0].model.entry.manifest.process
    weights = tuple((one.name, one.weight) for one in small)
    attention = None if plain.core is None else registry.find(plain.core).manifest.attention
    maker = _SweepMaker(plain.core, process, catalogue.default_rule(attention), weights, registry)
    sweeps = maker.sweeps(settings, small)
    authors = {} if plain.core is None else {plain.core: choose(plain.core, None, registry)}
    authors |= {one.name: _alone(one.name, plain.core, registry) for one in small}
    together = [spec for sweep in sweeps for spec in sweep.specs]
    measured = {one.name: one for spec in [*authors.values(), *together] for one in spec.members}
    return Candidates(plain.core, maker.small, tuple(measured.values()), sweeps, authors, plain)


def _alone(name: str, core: str | None, registry: Registry) -> EnsembleSpec:
    """A small model or a memory alone; what reads or looks up the private context has the core's tokens."""
    return choose(core if name.removesuffix(OF_MEMORY) == CONTEXT else NO_CORE, {name: 1.0}, registry)


@dataclass(frozen=True)
class _SweepMaker:
    """Makes ensembles of a core and small models at several weights of the first small model.

    core: its name, None without one.
    process: the noise process of all.
    usual: the rule by which they combine unless another is chosen.
    small: the small models and their weights.
    registry: where the models are.
    """

    core: str | None
    process: str
    usual: str
    small: tuple[tuple[str, float], ...]
    registry: Registry

    def sweeps(self, settings: EvalSettings, small: Sequence[Member[ModelFiles]]) -> tuple[Sweep, ...]:
        """The sweeps that are asked for, or all that are possible; none for a single model."""
        if len(self.small) + (self.core is not None) < 2:
            return ()
        differ = bool(settings.context) or all(
            member.model.entry.manifest.base is not None for member in small if member.role == "small"
        )
        same = () if differ else tuple(rule for rule in settings.rules if "base" in Blend(rule).needs)
        if same:
            problem = f"the rule {same[0]} needs private context, or a small model trained with --base."
            raise UsageError(problem, f"Pass --context FILE, or omit --rule {same[0]}.")
        ordered = sorted(catalogue.names(catalogue.RULES), key=lambda rule: rule != self.usual)  # the default one first
        possible = [rule for rule in ordered if differ or "base" not in Blend(rule).needs]
        rules = settings.rules or tuple(rule for rule in possible if self._can(rule))
        varied = self.core is not None and any(member.role == "small" for member in small)
        usual = {rule: among(Blend(rule), self.process) for rule in rules}
        if not varied:
            usual = {rule: (Blend(rule).declared.schedule or catalogue.SCHEDULES[0].name,) for rule in rules}
        pairs = [(rule, schedule) for rule in rules for schedule in settings.schedules or usual[rule]]
        fitting = [(rule, schedule) for rule, schedule in pairs if goes_with(Blend(rule), schedule)]
        return tuple(self._sweep(*pair) for pair in fitting or pairs)

    def _can(self, rule: str) -> bool:
        """Whether the members can combine by a rule: some need certain roles, and models that fit."""
        try:
            self._choose(self._weighted(rule), Blend(rule))
        except SsdError:
            return False
        return True

    def _weighted(self, rule: str) -> dict[str, float | None]:
        """The small models' own weights; none where a gate sets them."""
        return {name: None if Blend(rule).declared.weighs else weight for name, weight in self.small}

    def _sweep(self, rule: str, schedule: str) -> Sweep:
        blend = Blend(rule, schedule)
        if blend.declared.weighs or named(schedule) is None:
            return Sweep(rule, schedule, (None,), (self._choose(self._weighted(rule), blend),))
        weights = self._weights(rule, schedule)
        if not weights:
            rest = ", ".join(f"{name} {weight:g}" for name, weight in self.small[1:])
            problem = f"the other small models leave no weight: {rest}."
            raise UsageError(problem, "Give them less, as in --with NAME=0.3.")
        return Sweep(rule, schedule, weights, tuple(self._choose(self._at(w), blend) for w in weights))

    def _weights(self, rule: str, schedule: str) -> tuple[float, ...]:
        """Weights of the first small model, its own among them, up to what the others leave."""
        (_, own), *others = self.small
        whole = self.core is None or "base" in Blend(rule).needs
        room = 1.0 if whole else 1 - math.fsum(w for _, w in others)
        room = without_noise(room)
        tried = sorted({*GRID[1:], own})
        declared = named(schedule)
        needs_both = declared is not None and declared.varies is not None
        return tuple(w for w in tried if (w < room if needs_both else w <= room))

    def _at(self, weight: float) -> dict[str, float | None]:
        """All small models' weights when the first has this one; without a core the others share the rest."""
        (first, _), *others = self.small
        if self.core is not None:
            return {first: weight, **dict(others)}
        total = math.fsum(w for _, w in others)
        rest = {name: (1 - weight) * w / total for name, w in others if weight < 1}
        return {first: weight, **rest}

    def _choose(self, weights: dict[str, float | None], blend: Blend) -> EnsembleSpec:
        if "base" in blend.needs:  # a memory has no base to be compared with
            weights = {name: weight for name, weight in weights.items() if not name.endswith(OF_MEMORY)}
        return choose(self.core or NO_CORE, weights, self.registry, replace(blend, memory=False))
