"""The members that a core and named parts become under a rule, at constant weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.gate import AverageGate, Expert
from ssdcli.engine.ensemble.members import Member, Role
from ssdcli.engine.ensemble.schedules import Constant
from ssdcli.errors import NoSuchModel, UsageError
from ssdcli.generation.blend import Blend
from ssdcli.generation.parts import (
    CONTEXT,
    CONTEXT_MEMORY,
    EnsemblePart,
    are_several,
    bound,
    by_owner,
    default_gate,
    fitted_gate,
    in_place_of_core,
    weights_of,
)
from ssdcli.registry.compatibility import check_fit
from ssdcli.registry.store import Entry, Registry

_NAME_BOTH = "Name both, as in --core starter --with notes."


@dataclass(frozen=True)
class ModelFiles:
    """A registered model that is not loaded yet.

    entry: the model.
    origin: the model that it is added to, if it is an adapter.
    """

    entry: Entry
    origin: Entry | None = None

    @property
    def weights(self) -> Entry:
        """The model whose files hold the weights, except for an adapter's own."""
        return self.origin or self.entry


def fitting_members(
    core: Entry | None, parts: Sequence[EnsemblePart], blend: Blend, registry: Registry
) -> tuple[list[Member[ModelFiles]], tuple[Expert, ...]]:
    """The members that run by the rule of a blend, the core first, at constant weights; UsageError for a misfit.

    With them the ensembles of which they are members, if the rule is one of several.
    """
    experts: tuple[Expert, ...] = ()
    if "several" in blend.needs:
        members, experts = _switching(core, parts, blend.declared.name)
    elif "gate" in blend.needs:
        members = _gated(core, parts, blend.declared.name)
    elif "base" in blend.needs:
        members = _contrasted(core, parts, blend.declared.name, registry)
    else:
        members = _shared(core, parts)
    for other, member in combinations(members, 2):
        check_fit(member.model.entry, other.model.entry, registry)
    return members, experts


def _member(entry: Entry, role: Role, weight: float, name: str = "") -> Member[ModelFiles]:
    return Member(name or entry.name, ModelFiles(entry), Constant(weight), role, weight)


def _shared(core: Entry | None, parts: Sequence[EnsemblePart]) -> list[Member[ModelFiles]]:
    """Weights that sum to one: the core gets what the parts leave. Who gets nothing is no member."""
    weights = weights_of(parts)
    if core is None:
        total = math.fsum(weights)
        members = _beside_core(parts, [weight / total for weight in weights])
    else:
        rest = _rest([part.name for part in parts], weights)
        members = [_member(core, "core", rest), *_beside_core(parts, weights)]
    return [member for member in members if member.weight > 0]


def _beside_core(parts: Sequence[EnsemblePart], weights: Sequence[float]) -> list[Member[ModelFiles]]:
    """The members that parts become."""
    return [_member(part.owner, part.role, w, part.name) for part, w in zip(parts, weights, strict=True)]


def _gated(core: Entry | None, parts: Sequence[EnsemblePart], rule: str) -> list[Member[ModelFiles]]:
    """A core and the parts whose gate weighs them at each position; the reported weights are the constant ones."""
    if core is None or not parts:
        raise UsageError(f"the rule {rule} needs a core and a small model.", _NAME_BOTH)
    if len(by_owner(parts)) > 1:
        problem = f"the rule {rule} weighs one small model and its memory, and several are named."
        raise UsageError(problem, f"Omit --rule, or use --rule {catalogue.default_rule(core.manifest.attention)}.")
    if fitted_gate(parts) is None:
        name = next((part.owner.name for part in parts if fitted_gate([part]) is None), parts[0].owner.name)
        remedy = f"Fit one with 'ssd eval TEXT --with {name} --save', or use --rule {catalogue.default_rule()}."
        raise UsageError(f"{name!r} has no gate.", remedy)
    _check_not_given(parts, "its gate")
    weights = weights_of(parts)
    return [_member(core, "core", _rest([part.name for part in parts], weights)), *_beside_core(parts, weights)]


def _check_not_given(parts: Sequence[EnsemblePart], setter: str) -> None:
    given = next((part for part in parts if part.given is not None), None)
    if given is not None:
        problem = f"the weight of {given.name!r} is set by {setter}, so none can be given."
        raise UsageError(problem, f"Write --with {given.name}, without a weight.")


def _switching(
    core: Entry | None, parts: Sequence[EnsemblePart], rule: str
) -> tuple[list[Member[ModelFiles]], tuple[Expert, ...]]:
    """The members of several ensembles, each a model's with what joins it as if alone, at their mean weights."""
    _check_not_given(parts, f"the rule {rule}")
    if not are_several(core, parts):
        problem = f"the rule {rule} needs several small models beside a causal language model on this machine."
        raise UsageError(problem, "Omit --rule.")
    members: dict[str, Member[ModelFiles]] = {}
    found: list[tuple[str, list[Member[ModelFiles]], AverageGate | None]] = []
    for own in by_owner(parts):
        chosen, beside = in_place_of_core(core, own)
        beside = bound(beside, chosen)
        gate = default_gate(beside)
        alone = _shared(chosen, beside) if gate is None else _gated(chosen, beside, rule)
        alone = [one for one in alone if one.weight > 0]  # others are not run, alone as here
        found.append((own[0].owner.name, alone, gate))
        members |= {one.name: one for one in alone if one.name not in members}
    places = {name: place for place, name in enumerate(members)}
    experts = tuple(
        Expert(name, tuple(places[one.name] for one in alone), tuple(one.weight for one in alone), gate)
        for name, alone, gate in found
    )
    every = [one for _, alone, _ in found for one in alone]
    sums = {name: math.fsum(one.weight for one in every if one.name == name) for name in places}
    means = [(one, sums[name] / len(found)) for name, one in members.items()]
    return [replace(one, weight=mean, schedule=Constant(mean)) for one, mean in means], experts


def _contrasted(
    core: Entry | None, parts: Sequence[EnsemblePart], rule: str, registry: Registry
) -> list[Member[ModelFiles]]:
    """The core at weight 1, and each small model followed by its base at the same weight.

    The base is the model that the manifest names, else the small model itself, without the private context.
    """
    if core is None or not parts or any(part.role != "small" for part in parts):
        raise UsageError(f"the rule {rule} needs a core and a small model.", _NAME_BOTH)
    members = [_member(core, "core", 1.0)]
    for part, weight in zip(parts, weights_of(parts), strict=True):
        entry, named = part.owner, part.owner.manifest.base
        base = entry if named is None else _base(entry, named, registry)
        name = f"{entry.name} without context" if named is None else f"{named}, base of {entry.name}"
        members += [_member(entry, "small", weight), _member(base, "base", weight, name)]
    return members


def _base(entry: Entry, base: str, registry: Registry) -> Entry:
    try:
        return registry.find(base)
    except NoSuchModel:
        raise NoSuchModel(
            f"the base of {entry.name!r} is {base!r}, and there is no model of this name.",
            f"Train or import it again, or use --rule {catalogue.default_rule()}.",
        ) from None


def _rest(names: Sequence[str], weights: Sequence[float]) -> float:
    """The weight that the small models leave to the core."""
    total = without_noise(math.fsum(weights))
    if total > 1:
        each = " + ".join(f"{weight:g} ({name})" for name, weight in zip(names, weights, strict=True) if weight)
        remedy = "Give smaller ones, as in --with NAME=0.3."
        if CONTEXT in names and set(names) - {CONTEXT, CONTEXT_MEMORY.name}:
            omit = f"Omit --with {CONTEXT}, since the others see the files, too"
            remedy = f"{omit}, or give it a weight, as in --with {CONTEXT}=0.3."
        raise UsageError(f"the weights of the small models sum to {total:g}, which is more than 1: {each}.", remedy)
    return without_noise(1 - total)


def without_noise(weight: float) -> float:
    """A sum of weights, rounded so that 0.9 and 0.1 leave nothing of 1."""
    return round(weight, 12)
