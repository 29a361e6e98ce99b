"""Which models write together, chosen from their manifests alone, so that errors come before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.confidence import Confidence
from ssdcli.engine.ensemble.gate import AnyGate, Expert
from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import NoSuchModel, UsageError, require
from ssdcli.generation.blend import PLAIN, Blend
from ssdcli.generation.guides import GuideSpec, open_guide
from ssdcli.generation.lineup import ModelFiles, fitting_members
from ssdcli.generation.parts import (
    CONTEXT,
    CONTEXT_MEMORY,
    EnsemblePart,
    SmallModels,
    are_several,
    bound,
    default_gate,
    find_parts,
    fitted_confidence,
    fitted_gate,
    in_place_of_core,
    is_causal,
    is_remote,
    read_apart,
)
from ssdcli.generation.schedule_parser import schedules
from ssdcli.machine.placement import FREE, QUANTIZED, Placement
from ssdcli.registry.manifest import MEMORY
from ssdcli.registry.names import NO_CORE
from ssdcli.registry.store import Entry, Registry

if TYPE_CHECKING:
    from ssdcli.engine.denoiser import Backbone
    from ssdcli.engine.ensemble.rules import Rule
    from ssdcli.generation.loaded_model import Loaded, LoadedModel
    from ssdcli.generation.writer import Writer

INEXACT = "the probability of a text is exact only beside a causal language model, and there is none here."
_NAME_BOTH = "Name both, as in --core starter --with notes."


@dataclass(frozen=True)
class EnsembleSpec:
    """An ensemble whose models are not loaded yet: its members, and how they combine.

    core: the core's name, even if it is not a member because the small models leave it no weight; None without a core.
    members: those that run, the core first, and each base right after its small model.
    blend: the rule and the schedule.
    guides: classifiers that steer the text.
    gate: the members', if the rule needs one.
    experts: the ensembles of several small models, if the rule needs them.
    confidence: in what they write, if it was fitted for them as they are combined.
    """

    core: str | None
    members: tuple[Member[ModelFiles], ...]
    blend: Blend
    guides: tuple[GuideSpec, ...]
    gate: AnyGate | None = None
    confidence: Confidence | None = None
    experts: tuple[Expert, ...] = ()

    @property
    def block_size(self) -> int:
        """The tokens of a canvas: those of the first model whose block size is fixed, else those of the first model."""
        manifests = [member.model.entry.manifest for member in self.members]
        fixed = [size for size in (manifest.fixed_block for manifest in manifests) if size is not None]
        return fixed[0] if fixed else manifests[0].block_size

    @property
    def from_left(self) -> bool:
        """Whether a causal language model takes part, beside which text is written from the left."""
        return any(member.model.entry.manifest.attention == "autoregressive" for member in self.members)

    def open(self, placement: Placement = FREE, known: MutableMapping[Any, LoadedModel] | None = None) -> Writer:
        """Load the models as `placement` says, by default as they fit (SsdError if one cannot be read).

        known: models that were loaded with the same placement, which are not loaded twice; those loaded now join them.
        """
        from ssdcli.generation.loaded_model import Shared, core_of, open_memory, open_model, open_remote, process_of
        from ssdcli.generation.writer import Writer
        from ssdcli.text.codec import Codec
        from ssdcli.text.tokenizer import load_tokenizer

        self._check(placement)
        first = self.members[0].model.entry
        codec = Codec(load_tokenizer(first.folder, first.name))
        late_ends = any(_core_table(member.model.weights).get("late_ends") for member in self.members)
        process = process_of(first)
        known = {} if known is None else known
        loaded: dict[tuple[str, bool], Loaded] = {}
        cores: dict[str, Backbone] = {}
        shared, device = Shared(self.block_size, process, codec), "cpu"  # where a memory alone is looked up
        for member in self.members:
            files, key = member.model, _weights_or_memory(member)
            if key in loaded:
                continue
            reader = files.entry if files.entry.manifest.tunes_core else files.origin
            given = shared if reader is None else replace(shared, core=cores.get(reader.name))
            if member.role == "memory":
                loaded[key] = open_memory(files.entry, given)
                continue
            same = files.entry.name, files.entry.manifest.created, self.block_size
            opened = known.get(same)
            if opened is None and files.entry.manifest.is_remote:
                opened = open_remote(files.entry, given)
            opened = opened or open_model(files.entry, placement, origin=files.origin, shared=given)
            loaded[key] = known[same] = opened
            cores[(reader or files.entry).name] = core_of(opened)
            device = str(opened.denoiser.device)
            placement = replace(placement, device=device)  # all canvases are on the first model's device
        members = [member.carrying(loaded[_weights_or_memory(member)]) for member in self.members]
        manifest = first.manifest
        guides = tuple(open_guide(spec, manifest.tokenizer, manifest.vocabulary, device) for spec in self.guides)
        return Writer(members, self.core, self.rule, guides, late_ends=late_ends)

    @property
    def rule(self) -> Rule:
        """How the predictions are combined."""
        declared, needed = self.blend.declared.load(), self.experts or self.gate
        rule: Rule = declared if needed is None else declared(needed)
        return rule

    def reopen(self, writer: Writer) -> Writer:
        """Reuse the models of another writer, whose members include all of these; without guides."""
        from ssdcli.generation.writer import Writer

        known = {member.name: member.model for member in writer.members}
        members = [member.carrying(known[member.name]) for member in self.members]
        return Writer(members, self.core, self.rule, late_ends=writer.late_ends)

    def _check(self, placement: Placement) -> None:
        if placement.dtype in QUANTIZED and not any(_core_table(member.model.weights) for member in self.members):
            raise UsageError(f"--dtype {placement.dtype} is for pulled cores, and there is none here.", "Omit it.")


def choose(
    core: str | None = None,
    members: SmallModels = None,
    registry: Registry | None = None,
    blend: Blend = PLAIN,
    *,
    context: bool = False,
) -> EnsembleSpec:
    """Find the models of an ensemble by their manifests, as `load` does, without loading them.

    context: whether there will be a private context. Beside a causal core a memory of it joins where no other memory
    does, and the core itself reads it as a member of its own where nothing else is named.
    """
    registry = Registry() if registry is None else registry
    guides = tuple(GuideSpec.parse(text) for text in blend.guides)
    has_memories = blend.memory and "base" not in blend.needs
    parts = find_parts(members, registry, memory=has_memories)
    chosen = _core(core, parts, registry)
    if "base" not in blend.needs:
        chosen, parts = in_place_of_core(chosen, parts)
    if context and is_causal(chosen):
        alone = all(part.joins_unasked for part in parts) and blend.rule is None and blend.schedule is None
        if alone and not is_remote(chosen):
            parts = read_apart(parts, registry, memory=has_memories)
        elif has_memories and all(part.role == "small" and part.name != CONTEXT for part in parts):
            parts.append(CONTEXT_MEMORY)
    parts = bound(parts, chosen)
    is_usual = blend == replace(PLAIN, memory=blend.memory)
    blend = _with_rule(blend, chosen, parts)
    parts = _gated_parts(parts) if "gate" in blend.needs else parts
    fitting, experts = fitting_members(chosen, parts, blend, registry)
    running = [_with_origin(member, registry) for member in fitting]
    gate = fitted_gate(parts) if "gate" in blend.needs else None
    sure = fitted_confidence(parts) if is_usual else None
    spec = EnsembleSpec(None if chosen is None else chosen.name, tuple(running), blend, guides, gate, sure, experts)
    scheduled = schedules(blend, running, running[0].model.entry.manifest.process, gate)
    pairs = zip(running, scheduled, strict=True)
    return replace(spec, members=tuple(replace(member, schedule=schedule) for member, schedule in pairs))


def _with_rule(blend: Blend, core: Entry | None, parts: Sequence[EnsemblePart]) -> Blend:
    """The blend with a rule: the one that is named, else what suits several models or a gate, else the core's own."""
    if blend.rule is None and blend.schedule is None and are_several(core, parts):
        return replace(blend, rule=catalogue.needing("several").name)
    if is_causal(core) and blend.rule is None and blend.schedule is None and default_gate(parts) is not None:
        return replace(blend, rule=catalogue.needing("gate").name)
    return blend.beside(None if core is None else core.manifest.attention)


def _gated_parts(parts: Sequence[EnsemblePart]) -> list[EnsemblePart]:
    """Those parts that a gate was fitted for: without the memory, where there is a gate of the small model alone."""
    small = [part for part in parts if part.role == "small"]
    return small if fitted_gate(parts) is None and fitted_gate(small) is not None else list(parts)


def _weights_or_memory(member: Member[ModelFiles]) -> tuple[str, bool]:
    """What is loaded once for all members of which it is the same."""
    return member.model.entry.name, member.role == "memory"


def _with_origin(member: Member[ModelFiles], registry: Registry) -> Member[ModelFiles]:
    entry = member.model.entry
    return member.carrying(ModelFiles(entry, registry.origin_of(entry)))


def _core(name: str | None, parts: Sequence[EnsemblePart], registry: Registry) -> Entry | None:
    """The core of this name; without a name the first small model's, else the default; None for NO_CORE."""
    small = [part.entry for part in parts if part.entry is not None]
    if name == NO_CORE:
        if not small:
            raise UsageError(
                "there is neither a core nor a small model.", "Name a core with --core, or a small model with --with."
            )
        return None
    if name is not None:
        if name in [part.owner.name for part in parts if part.role == "small" and part.entry is not None]:
            problem = f"{name!r} cannot be both the core and a small model."
            raise UsageError(problem, "Use it alone, or name another core.")
        entry = registry.find(name)
        able = entry.manifest.attention != "none"
        require(able, f"{name!r} is {entry.manifest.noun}, which writes nothing by itself.", "Name a core with --core.")
        return entry
    made_for = small[0].manifest.core if small else None
    if made_for is None:
        return registry.find(registry.default())
    try:
        return registry.find(made_for)
    except NoSuchModel:
        remedy = f"Name another core with --core, or --core {NO_CORE}."
        if parts[0].role == "small" and small[0].manifest.origin == made_for:
            remedy = f"Pull or import it again: {small[0].name!r} cannot run without it."
        problem = f"{small[0].name!r} was made for {made_for!r}, and there is no model of this name."
        raise NoSuchModel(problem, remedy) from None


def _core_table(entry: Entry) -> Mapping[str, Any]:
    """The part of a pulled core's config.json that `ssd pull` wrote; empty for other models."""
    from ssdcli.models.core_config import read_config
    from ssdcli.models.core_spec import KEY

    if entry.manifest.kind == MEMORY:
        return {}
    table: Mapping[str, Any] = read_config(entry.folder).get(KEY, {})
    return table
