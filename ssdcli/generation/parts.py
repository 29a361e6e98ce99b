"""What named models bring to an ensemble: their weights, their memories, and how much each counts beside a core."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import CONTEXT_GATE, PUBLIC_GATE, AnyGate, AverageGate, Gate, gate_of
from ssdcli.errors import UsageError
from ssdcli.registry.manifest import MEMBERS, MEMORY
from ssdcli.registry.store import Entry, Registry

UNTUNED = 0.5  # the weight of a small model for which none was measured
UNTUNED_MEMORY = 0.2  # the share of a memory of what the small model leaves, likewise
CONTEXT = "context"  # in place of a model's name: the core as it reads the private context, which it does apart
READ, LOOKED_UP = 0.9, 0.1  # the weights of that member and of a memory of the context; measured

OF_MEMORY = ":memory"  # behind a model's name: its memory alone

SmallModels = Mapping[str, float | None] | Sequence[str] | None  # names, with weights or without


@dataclass(frozen=True)
class EnsemblePart:
    """One member that a name brings.

    name: of the member.
    entry: the model that it belongs to; for CONTEXT and its memory the core, once that is known.
    role: "small" for a model's weights, "memory" for its memory.
    given: the weight that was asked for; None for the tuned one.
    joins_unasked: whether it is a memory that its model brings along.
    beside_another: whether it is an adapter's beside another core than that adapter, for which no gate was fitted.
    """

    name: str
    entry: Entry | None
    role: Literal["small", "memory"]
    given: float | None
    joins_unasked: bool = False
    beside_another: bool = False

    @property
    def owner(self) -> Entry:
        """The entry, where it is known."""
        assert self.entry is not None, self.name
        return self.entry

    @property
    def is_context(self) -> bool:
        """Whether it is a memory of the private context alone."""
        return self.role == "memory" and self.owner.manifest.memory is None


CONTEXT_MEMORY = EnsemblePart(CONTEXT + OF_MEMORY, None, "memory", None)


def read_members(given: Sequence[str]) -> dict[str, float | None]:
    """Small models and their weights from NAME and NAME=W; UsageError for anything else."""
    members: dict[str, float | None] = {}
    for item in given:
        name, equals, number = item.partition("=")
        if name in members:
            raise UsageError(f"--with names {name!r} twice.", "Name each small model once.")
        try:
            members[name] = float(number) if equals else None
        except ValueError:
            raise UsageError(
                f"--with {item}: {number!r} is not a weight.", f"Give a number, as in --with {name}=0.3."
            ) from None
    return members


def find_parts(members: SmallModels, registry: Registry, *, memory: bool) -> list[EnsemblePart]:
    """The parts of these models, each model's weights before its memory, in whatever order they are named.

    memory: whether memories join that are not named. NoSuchModel, UsageError.
    """
    pairs = _pairs(members)
    named = {name for name, _ in pairs}
    parts = [part for name, weight in pairs for part in _parts(name, weight, registry)]
    owners = list(dict.fromkeys(part.name.removesuffix(OF_MEMORY) for part in parts))
    parts.sort(key=lambda part: (owners.index(part.name.removesuffix(OF_MEMORY)), part.role == "memory"))
    return [part for part in parts if not part.joins_unasked or (memory and part.name not in named)]


def _parts(name: str, weight: float | None, registry: Registry) -> Iterator[EnsemblePart]:
    """The parts of one name: a small model and its tuned memory, a memory alone, or those of the private context."""
    owner = name.removesuffix(OF_MEMORY)
    if owner == CONTEXT and not _is_registered(CONTEXT, registry):
        yield from _parts_of_context(name, weight)
        return
    if ":" in owner:
        problem = f"{name!r} is not a model name, and behind the colon only 'memory' has a meaning."
        raise UsageError(problem, f"Write --with {owner.partition(':')[0]}{OF_MEMORY} for that model's memory alone.")
    entry = _small(registry.find(owner))
    if entry.manifest.kind == MEMORY or owner != name:
        if entry.manifest.memory is None:
            remedy = f"Build one with 'ssd train-small DATA --update {owner}'."
            raise UsageError(f"{owner!r} has no memory.", remedy)
        yield EnsemblePart(name, entry, "memory", weight)
        return
    yield EnsemblePart(name, entry, "small", weight)
    own: tuple[Literal["small", "memory"], ...] = ("memory",) if entry.manifest.tunes_core else ("small", "memory")
    if weight != 1 and entry.manifest.memory is not None and _gate(entry, own) is not None:
        yield EnsemblePart(name + OF_MEMORY, entry, "memory", None, joins_unasked=True)


def _parts_of_context(name: str, weight: float | None) -> Iterator[EnsemblePart]:
    """The core that reads the private context with a memory of it, or the one of the two that is meant."""
    if name != CONTEXT:
        yield replace(CONTEXT_MEMORY, given=weight)
        return
    yield EnsemblePart(CONTEXT, None, "small", READ if weight is None else weight)
    if weight is None:
        yield replace(CONTEXT_MEMORY, given=LOOKED_UP, joins_unasked=True)


def _is_registered(name: str, registry: Registry) -> bool:
    return any(entry.name == name for entry in registry.entries())


def _pairs(small: SmallModels) -> list[tuple[str, float | None]]:
    if small is None:
        return []
    if isinstance(small, Mapping):
        return list(small.items())
    names = [small] if isinstance(small, str) else list(small)
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name!r} is named twice.", "Name each small model once.")
    return [(name, None) for name in names]


def _small(entry: Entry) -> Entry:
    if entry.manifest.kind not in MEMBERS:
        raise UsageError(
            f"{entry.name!r} is {entry.manifest.noun}, and only small models, adapters and memories can join a core.",
            "Name a core with --core, and small models with --with.",
        )
    return entry


def is_causal(core: Entry | None) -> bool:
    """Whether this is a causal language model."""
    return core is not None and core.manifest.attention == "autoregressive"


def is_remote(core: Entry | None) -> bool:
    """Whether this is a core on another machine."""
    return core is not None and core.manifest.is_remote


def bound(parts: Sequence[EnsemblePart], core: Entry | None) -> list[EnsemblePart]:
    """The parts beside this core, which owns CONTEXT (UsageError without one that reads or looks it up)."""
    ownerless = [part for part in parts if part.entry is None]
    if core is None and ownerless:
        raise UsageError(f"the member {ownerless[0].name!r} needs a core.", "Name one with --core.")
    if core is not None and not is_causal(core) and any(part.role == "small" for part in ownerless):
        remedy = f"Name its memory, --with {CONTEXT}{OF_MEMORY}, or a small model."
        raise UsageError(f"{core.name!r} is no causal language model, which could read a context apart.", remedy)
    if core is not None and is_remote(core) and any(part.role == "small" for part in ownerless):
        problem = f"{core.name!r} runs on another machine, and would be sent the private context to read."
        raise UsageError(problem, f"Name its memory, --with {CONTEXT}{OF_MEMORY}, which stays here.")
    owned = [(part, part.entry or core) for part in parts]
    return [
        replace(part, entry=entry, beside_another=bool(entry and entry.manifest.tunes_core and entry != core))
        for part, entry in owned
    ]


def weights_of(parts: Sequence[EnsemblePart]) -> list[float]:
    """Each part's weight, as given or tuned; memories share what small models of given weights leave, as if alone.

    Tuned weights of several models are divided by their number: the ensemble is the mean of each one's with the core.
    """
    owned = by_owner(parts)
    if len(owned) > 1 and not any(part.given is not None or part.is_context for part in parts):
        return [weight / len(owned) for own in owned for weight in weights_of(own)]
    gate = None if any(part.given is not None for part in parts) else fitted_gate(parts)
    if isinstance(gate, AverageGate):
        return list(gate.weights[1:])
    tuned = sum(part.role == "small" and part.given is None for part in parts)
    small = [_small_weight(part, tuned) for part in parts if part.role == "small"]
    left = max(0.0, 1 - math.fsum(small)) / max(1, len(parts) - len(small))
    own = iter(small)
    return [next(own) if part.role == "small" else _memory_weight(part, left) for part in parts]


def _small_weight(part: EnsemblePart, among: int) -> float:
    """The weight of a small model among so many whose weights were not given."""
    tuned = part.owner.manifest.weight
    return _checked(part.name, part.given) if part.given is not None else (UNTUNED if tuned is None else tuned) / among


def _memory_weight(part: EnsemblePart, left: float) -> float:
    """The weight of a memory of which small models leave so much."""
    if part.given is not None:
        return _checked(part.name, part.given)
    gate = fitted_gate([part])
    return left * (gate.weights[-1] if isinstance(gate, AverageGate) else UNTUNED_MEMORY)


def _checked(name: str, weight: float) -> float:
    if not 0 < weight <= 1:
        problem = f"the weight of {name!r} must be above 0 and at most 1, not {weight:g}."
        raise UsageError(problem, f"Write --with {name}=0.3, for example.")
    return weight


def fitted_gate(parts: Sequence[EnsemblePart]) -> AnyGate | None:
    """The gate of a core and these parts of one model, if one was fitted for them."""
    return _own_gate(parts) if len(by_owner(parts)) == 1 else None


def by_owner(parts: Sequence[EnsemblePart]) -> list[list[EnsemblePart]]:
    """The parts of each model."""
    return [list(own) for _, own in groupby(parts, key=lambda part: part.owner.name)]


def are_several(core: Entry | None, parts: Sequence[EnsemblePart]) -> bool:
    """Whether these are several models without weights, none of them a private context, that a local core may join."""
    if core is None or not is_causal(core) or is_remote(core) or any(part.given is not None for part in parts):
        return False
    strange = any(part.owner.manifest.tunes_core and part.owner.manifest.base != core.name for part in parts)
    return len(by_owner(parts)) > 1 and not strange and core.name not in [part.owner.name for part in parts]


def _own_gate(parts: Sequence[EnsemblePart]) -> AnyGate | None:
    """The gate of a core and parts of one model."""
    entry, roles = parts[0].owner, _roles(parts)
    if parts[0].is_context:
        return CONTEXT_GATE
    if parts[0].beside_another:
        return PUBLIC_GATE if roles == PUBLIC_GATE.members[1:] else None
    if roles == ("small",) and entry.manifest.gate is not None and _gate(entry, roles) is None:
        return Gate(**entry.manifest.gate)
    return _gate(entry, roles)


def default_gate(parts: Sequence[EnsemblePart]) -> AverageGate | None:
    """The gate of a core and these parts that is used unless weights or another rule are given, if there is one."""
    gate = fitted_gate(parts)
    if isinstance(gate, AverageGate) and gate.is_default and all(part.given is None for part in parts):
        return gate
    return None


def in_place_of_core(core: Entry | None, parts: Sequence[EnsemblePart]) -> tuple[Entry | None, list[EnsemblePart]]:
    """The core and the parts beside it: an adapter of this core that joins it alone, without a weight, replaces it."""
    small = [part for part in parts if part.role == "small"]
    if core is None or len(small) != 1 or small[0].entry is None or small[0].given is not None:
        return core, list(parts)
    (tuned,) = small
    if not tuned.owner.manifest.tunes_core or tuned.owner.manifest.base != core.name:
        return core, list(parts)
    return tuned.entry, [part for part in parts if part is not tuned]


def fitted_confidence(parts: Sequence[EnsemblePart]) -> Confidence | None:
    """How sure a core and these parts are of what they write, if that was fitted for them at their own weights."""
    gate = None if any(part.given is not None for part in parts) else fitted_gate(parts)
    return gate.confidence if isinstance(gate, AverageGate) else None


def read_apart(parts: Sequence[EnsemblePart], registry: Registry, *, memory: bool) -> list[EnsemblePart]:
    """The core as it reads the private context, and a memory: one of these parts that holds the user's text, too."""
    read, *looked_up = find_parts([CONTEXT], registry, memory=memory)
    known = parts[: len(looked_up)] or looked_up
    return [read, *(replace(part, given=LOOKED_UP) for part in known)]


def _roles(parts: Sequence[EnsemblePart]) -> tuple[Literal["small", "memory"], ...]:
    return tuple(part.role for part in parts)


def _gate(entry: Entry, roles: tuple[Literal["small", "memory"], ...]) -> AverageGate | None:
    return gate_of(entry.manifest.joint_gates, ("core", *roles))
