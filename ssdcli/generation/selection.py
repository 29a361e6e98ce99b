"""Which models write together: chosen from manifests alone, so that a misfit is said before much is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.gate import Gate
from ssdcli.engine.ensemble.schedules import Constant, Schedule
from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.generation.guides import GuideSpec, open_guide
from ssdcli.generation.prompting import Voice
from ssdcli.generation.schedule_parser import schedules
from ssdcli.generation.types import PLAIN, Blend
from ssdcli.generation.writer import Writer
from ssdcli.machine.placement import FREE, QUANTIZED, Placement
from ssdcli.registry.adapters import base_of
from ssdcli.registry.compatibility import check_fit
from ssdcli.registry.manifest import MEMBERS
from ssdcli.registry.store import Entry, Registry
from ssdcli.text.chat import read_chat
from ssdcli.text.codec import Language

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ssdcli.engine.denoiser import Denoiser
    from ssdcli.engine.ensemble.rules import Rule
    from ssdcli.engine.process import Process

NO_CORE = "none"
UNTUNED = 0.5  # the weight of a small model for which none was measured
_DIGITS = 12  # weights are rounded to this many decimals, so that 0.9 and 0.1 leave nothing

Members = Mapping[str, float | None] | Sequence[str] | None


@dataclass(frozen=True)
class Part:
    """A registered model, its share and when it runs; a private one sees the private context.

    The weight of what a `contrast` holds against the others is below zero. base: what an adapter is loaded on.
    """

    entry: Entry
    name: str
    weight: float
    private: bool
    schedule: Schedule
    base: Entry | None = None

    @property
    def weights(self) -> Entry:
        """The model whose files its weights are in, but for an adapter's own."""
        return self.entry if self.base is None else self.base


@dataclass(frozen=True)
class Lineup:
    """The models that run, the core first; a core that the small ones leave nothing to is only named."""

    core: str | None
    parts: tuple[Part, ...]
    blend: Blend
    guides: tuple[GuideSpec, ...]

    @property
    def block_size(self) -> int:
        """The tokens of a canvas: those of the first model that fixes it, else what the core proposes."""
        manifests = [part.entry.manifest for part in self.parts]
        fixed = [manifest.block_size for manifest in manifests if manifest.attention != "full"]
        return fixed[0] if fixed else manifests[0].block_size

    def open(self, placement: Placement = FREE) -> Writer:
        """Load the models where `placement` says, by default as they fit (SsdError if one cannot be read)."""
        self._check(placement)
        first = self.parts[0].entry
        tokenizer = _tokenizer(first)
        ends = tuple(dict.fromkeys(end for part in self.parts for end in _ends(part.entry, tokenizer)))
        process = _process(first)
        floods = any(_core_table(part.weights).get("late_ends") for part in self.parts)
        loaded: dict[str, Denoiser] = {}
        for part in {part.entry.name: part for part in self.parts}.values():
            denoiser = loaded[part.entry.name] = self._denoiser(part, process, placement)
            device = str(denoiser.backbone.device)
            placement = replace(placement, device=device)  # that of all canvases
        voices = [_voice(part, loaded[part.entry.name], tokenizer) for part in self.parts]
        manifest = first.manifest
        guides = tuple(open_guide(spec, manifest.tokenizer, manifest.vocabulary, device) for spec in self.guides)
        language, late = Language(tokenizer, ends), ends if floods else ()
        return Writer(voices, language, self.core, self.rule, guides, late)

    @property
    def rule(self) -> Rule:
        """How the predictions are combined."""
        declared, gate = catalogue.rule(self.blend.rule).load(), self.gate
        rule: Rule = declared if gate is None else declared(gate)
        return rule

    @property
    def gate(self) -> Gate | None:
        """The small model's gate, where members combine by one."""
        return _gate(self.parts[-1].entry) if "gate" in self.blend.needs else None

    def recast(self, writer: Writer) -> Writer:
        """Open with the models that another writer has loaded, among whose voices are all of the parts; no guides."""
        known = {voice.name: voice for voice in writer.voices}
        voices = [replace(known[part.name], weight=part.weight, schedule=part.schedule) for part in self.parts]
        return Writer(voices, writer.language, self.core, self.rule, late=writer.late)

    def _check(self, placement: Placement) -> None:
        if placement.dtype in QUANTIZED and not any(_core_table(part.weights) for part in self.parts):
            raise UsageError(f"--dtype {placement.dtype} is for pulled cores, and none is here.", "Leave it away.")

    def _denoiser(self, part: Part, process: Process, placement: Placement) -> Denoiser:
        from ssdcli.models.loading import load_model, make_denoiser

        adapter = None if part.base is None else part.entry.folder
        backbone = load_model(part.weights.folder, placement, self.block_size, adapter)
        return make_denoiser(backbone, part.entry.manifest.attention, process, cache=placement.cache)


def choose(
    core: str | None = None, members: Members = None, registry: Registry | None = None, blend: Blend = PLAIN
) -> Lineup:
    """Find the models of an ensemble, as `load` does, from their manifests and without loading them."""
    registry = Registry() if registry is None else registry
    guides = tuple(GuideSpec.parse(text) for text in blend.guides)
    small = [(_small(registry.find(name)), weight) for name, weight in _pairs(members)]
    chosen = _core(core, [entry for entry, _ in small], registry)
    parts = _parts(chosen, small, blend.needs, registry)
    for other, part in combinations(parts, 2):
        check_fit(part.entry, other.entry, registry)
    parts = [replace(part, base=base_of(part.entry, registry)) for part in parts]
    named = [(part.name, part.weight, part.private) for part in parts]
    lineup = Lineup(None if chosen is None else chosen.name, tuple(parts), blend, guides)
    scheduled = schedules(blend, named, parts[0].entry.manifest.process, lineup.gate)
    parts = [replace(part, schedule=schedule) for part, schedule in zip(parts, scheduled, strict=True)]
    return replace(lineup, parts=tuple(parts))


def _parts(
    core: Entry | None, small: Sequence[tuple[Entry, float | None]], needs: Sequence[str], registry: Registry
) -> list[Part]:
    """Who runs by a rule with these needs, the core first, at constant weights."""
    if "gate" in needs:
        return _gated(core, small)
    shares = [(entry, _weight(entry, weight)) for entry, weight in small]
    return _contrasted(core, shares, registry) if "base" in needs else _shared(core, shares)


def _part(entry: Entry, weight: float, private: bool, name: str = "") -> Part:
    return Part(entry, name or entry.name, weight, private, Constant(weight))


def _shared(core: Entry | None, small: Sequence[tuple[Entry, float]]) -> list[Part]:
    """Weights that sum to one: what the small models leave is the core's."""
    if core is None:
        total = math.fsum(weight for _, weight in small)
        return [_part(entry, weight / total, True) for entry, weight in small]
    rest = _rest([entry.name for entry, _ in small], [weight for _, weight in small])
    parts = [_part(entry, weight, True) for entry, weight in small]
    return [_part(core, rest, False), *parts] if rest > 0 else parts


def _gated(core: Entry | None, small: Sequence[tuple[Entry, float | None]]) -> list[Part]:
    """A core and the small model whose gate says at each position how much it weighs; told is its constant weight."""
    if core is None or len(small) != 1:
        raise UsageError("a gate is for a core and one small model.", "Name both, as in --core starter --with notes.")
    ((entry, weight),) = small
    if _gate(entry) is None:
        remedy = f"Fit one with 'ssd eval TEXT --with {entry.name} --save', or use --rule mix."
        raise UsageError(f"{entry.name!r} has no gate.", remedy)
    if weight is not None:
        raise UsageError(
            f"the weight of {entry.name!r} is its gate's to say.", f"Name it as --with {entry.name} alone."
        )
    usual = _weight(entry, None)
    return [_part(core, _rest([entry.name], [usual]), False), _part(entry, usual, True)]


def _gate(entry: Entry) -> Gate | None:
    return None if entry.manifest.gate is None else Gate(**entry.manifest.gate)


def _contrasted(core: Entry | None, small: Sequence[tuple[Entry, float]], registry: Registry) -> list[Part]:
    """The core whole, and for each small model the same weight for it and against its base.

    The base is the model that the manifest links, or else the small model itself; it never sees the private context.
    """
    if core is None or not small:
        raise UsageError("a contrast needs a core and a small model.", "Name both, as in --core starter --with notes.")
    parts = [_part(core, 1.0, False)]
    for entry, weight in small:
        base = entry.manifest.base
        against = entry if base is None else _base(entry, base, registry)
        name = f"{entry.name} without context" if base is None else f"{base}, base of {entry.name}"
        parts += [_part(entry, weight, True), _part(against, -weight, False, name)]
    return parts


def _base(entry: Entry, base: str, registry: Registry) -> Entry:
    try:
        return registry.find(base)
    except NoSuchModel:
        raise NoSuchModel(
            f"{entry.name!r} was specialised from {base!r}, and there is no model of this name to contrast it with.",
            "Train or import it again, or use --rule mix.",
        ) from None


def _pairs(members: Members) -> list[tuple[str, float | None]]:
    if members is None:
        return []
    if isinstance(members, Mapping):
        return list(members.items())
    names = [members] if isinstance(members, str) else list(members)
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name!r} is named twice.", "Name each small model once.")
    return [(name, None) for name in names]


def _small(entry: Entry) -> Entry:
    if entry.manifest.kind not in MEMBERS:
        raise UsageError(
            f"{entry.name!r} is of kind {entry.manifest.kind!r}, and only small models and adapters can join a core.",
            "Name a core with --core, and small models with --with.",
        )
    return entry


def _core(name: str | None, small: Sequence[Entry], registry: Registry) -> Entry | None:
    """The core that is named, the first small model's own, or the default; None for `none`."""
    if name == NO_CORE:
        if not small:
            raise UsageError("without a core and without a small model nothing can be generated.", "Name one.")
        return None
    if name is not None:
        if name in [entry.name for entry in small]:
            raise UsageError(f"{name!r} cannot be the core and a member.", "Use it alone, or name another core.")
        return registry.find(name)
    made_for = small[0].manifest.core if small else None
    if made_for is None:
        return registry.find(registry.default())
    try:
        return registry.find(made_for)
    except NoSuchModel:
        raise NoSuchModel(
            f"{small[0].name!r} was made for {made_for!r}, and there is no model of this name.",
            f"Name another core with --core, or --core {NO_CORE}.",
        ) from None


def _weight(entry: Entry, given: float | None) -> float:
    weight = given if given is not None else entry.manifest.weight
    if weight is None:
        return UNTUNED
    if not 0 < weight <= 1:
        raise UsageError(
            f"the weight of {entry.name!r} must be above 0 and at most 1, not {weight:g}.",
            "Give such a weight.",
        )
    return weight


def _rest(names: Sequence[str], weights: Sequence[float]) -> float:
    """What the small models leave to the core."""
    total = round(math.fsum(weights), _DIGITS)
    if total > 1:
        each = " + ".join(f"{weight:g} ({name})" for name, weight in zip(names, weights, strict=True))
        raise UsageError(
            f"the weights of the small models sum to {total:g}, which is more than 1: {each}.",
            "Give smaller ones, as in --with NAME=0.3.",
        )
    return round(1 - total, _DIGITS)


def _tokenizer(entry: Entry) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more precise
        raise _unreadable(entry, f"its tokenizer.json cannot be read ({error})") from error


def _ends(entry: Entry, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a model's texts."""
    from ssdcli.text.tokenizer import END_OF_TEXT

    if entry.manifest.ends:
        return entry.manifest.ends
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise SsdError(f"the tokenizer of {entry.name!r} has no {END_OF_TEXT}.", "Make or pull the model again.")
    return (end,)


def _core_table(entry: Entry) -> Mapping[str, Any]:
    """What a pulled core says of itself beyond its native class; of other models nothing."""
    from ssdcli.models.core import read_config
    from ssdcli.models.core_spec import KEY

    table: Mapping[str, Any] = read_config(entry.folder).get(KEY, {})
    return table


def _voice(part: Part, denoiser: Denoiser, tokenizer: Tokenizer) -> Voice:
    from ssdcli.models.backbones.block_diffusion import BlockDiffusionLM

    entry, manifest = part.entry, part.entry.manifest
    opening = _ends(entry, tokenizer)[0] if manifest.begin is None else manifest.begin
    chat = read_chat(entry.folder, entry.name) if manifest.format == "chat" else None
    taught = manifest.format == "turns" or (chat is not None and manifest.kind in MEMBERS)
    cut = isinstance(denoiser.backbone, BlockDiffusionLM) and manifest.begin is None  # windows cut documents
    anywhere = cut and not taught  # but no answers
    return Voice(part.name, part.weight, part.private, denoiser, part.schedule, opening, chat, taught, anywhere)


def _process(entry: Entry) -> Process:
    from ssdcli.engine.process import make_process

    manifest = entry.manifest
    try:
        return make_process(manifest.process, manifest.vocabulary, manifest.constants)
    except ValueError as error:
        raise _unreadable(entry, str(error)) from error
    except KeyError as error:
        raise _unreadable(
            entry, f"its manifest lacks the constant {error} of the {manifest.process} process"
        ) from error


def _unreadable(entry: Entry, reason: str) -> SsdError:
    return SsdError(f"the model {entry.name!r} cannot be used: {reason}.", "Check it with 'ssd models verify'.")
