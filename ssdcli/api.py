"""The Python interface: `load("starter", {"notes": 0.3}).generate("Dear landlord,")`.

An ensemble is chosen from manifests alone: what does not fit is said before anything heavy is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssdcli.errors import NoSuchModel, SsdError, UsageError
from ssdcli.exchange import MemberUse, Options, Piece, Request, Result
from ssdcli.registry.manifest import Manifest
from ssdcli.registry.store import Entry, Registry
from ssdcli.writing import Voice, Writer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ssdcli.engine.process import Process

__all__ = ["MemberUse", "Options", "Piece", "Request", "Result", "Writer", "choose", "load"]

NO_CORE = "none"
UNTUNED = 0.5  # the weight of a small model for which none was measured
_DIGITS = 12  # weights are rounded to this many decimals, so that 0.9 and 0.1 leave nothing

Members = Mapping[str, float | None] | Sequence[str] | None


@dataclass(frozen=True)
class Part:
    """A registered model and its share; a private one sees the private context."""

    entry: Entry
    weight: float
    private: bool


@dataclass(frozen=True)
class Lineup:
    """The models that run, the core first; a core that the small ones leave nothing to is only named."""

    core: str | None
    parts: tuple[Part, ...]

    def open(self) -> Writer:
        """Load the models (SsdError if one cannot be read)."""
        from ssdcli.engine.denoiser import Denoiser
        from ssdcli.models.folder import best_device, load_backbone
        from ssdcli.training.tokenizer import END_OF_TEXT

        first = self.parts[0].entry
        tokenizer = _tokenizer(first)
        end = tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise SsdError(f"the tokenizer of {first.name!r} has no {END_OF_TEXT}.", "Make or pull the model again.")
        process, device = _process(first), best_device()
        voices = [
            Voice(p.entry.name, p.weight, p.private, Denoiser(load_backbone(p.entry.folder, device=device), process))
            for p in self.parts
        ]
        return Writer(voices, tokenizer, end, self.core)


def load(core: str | None = None, members: Members = None, registry: Registry | None = None) -> Writer:
    """Load an ensemble from the registry; models run in float32, on a GPU if there is one.

    core: a model's name; "none" for none, the small models' weights then scaled to sum to one; by default the
    core that the first small model was made for, else the registry's default.
    members: small models and their weights in (0, 1], or names alone; a weight of None is the tuned one in
    the manifest, else 0.5. The core keeps what is left of 1, and is not run if that is nothing.

    NoSuchModel for a name that is not registered, UsageError for weights or models that do not go together.
    """
    return choose(core, members, registry).open()


def choose(core: str | None = None, members: Members = None, registry: Registry | None = None) -> Lineup:
    """Find the models of an ensemble, as `load` does, from their manifests and without loading them."""
    registry = Registry() if registry is None else registry
    small = [(_small(registry.find(name)), weight) for name, weight in _pairs(members)]
    chosen = _core(core, [entry for entry, _ in small], registry)
    weights = [_weight(entry, weight) for entry, weight in small]
    if chosen is None:
        total = math.fsum(weights)
        weights, rest = [weight / total for weight in weights], 0.0
    else:
        rest = _rest([entry.name for entry, _ in small], weights)
    parts = [Part(entry, weight, True) for (entry, _), weight in zip(small, weights, strict=True)]
    if chosen is not None and rest > 0:
        parts = [Part(chosen, rest, False), *parts]
    _check_fit([part.entry for part in parts], registry)
    return Lineup(None if chosen is None else chosen.name, tuple(parts))


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
    if entry.manifest.kind != "small":
        raise UsageError(
            f"{entry.name!r} is of kind {entry.manifest.kind!r}, and only small models can join a core.",
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


def _check_fit(entries: Sequence[Entry], registry: Registry) -> None:
    """Raise UsageError for a model that cannot share a canvas with the first one."""
    first, *others = entries
    for entry in others:
        problem = _misfit(entry.manifest, first.manifest)
        if problem is not None:
            raise UsageError(f"{entry.name!r} does not fit {first.name!r}: {problem}.", _fitting(first, registry))


def _misfit(one: Manifest, other: Manifest) -> str | None:
    """What keeps two models from denoising one canvas, if anything does."""
    if one.tokenizer != other.tokenizer:
        return "their tokenizers differ"
    if (one.process, one.constants) != (other.process, other.constants):
        mine, theirs = (f"{m.process} {dict(sorted(m.constants.items()))}" for m in (one, other))
        return f"its noise process is {mine}, not {theirs}"
    if one.block_size != other.block_size:
        return f"its block size is {one.block_size}, not {other.block_size}"
    return None


def _fitting(first: Entry, registry: Registry) -> str:
    """The registered small models that fit the first one."""
    small = [e for e in registry.entries() if e.manifest.kind == "small" and e.name != first.name]
    names = [entry.name for entry in small if _misfit(entry.manifest, first.manifest) is None]
    if names:
        return f"These fit {first.name!r}: {', '.join(names)}."
    return f"No small model fits {first.name!r} yet: train one with 'ssd train-small --for {first.name}'."


def _tokenizer(entry: Entry) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(entry.folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more precise
        raise _unreadable(entry, f"its tokenizer.json cannot be read ({error})") from error


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
