"""Whether models can denoise one canvas together, by their manifests alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ssdcli.errors import UsageError
from ssdcli.registry.manifest import MEMBERS, Manifest
from ssdcli.registry.store import Entry, Registry


@dataclass(frozen=True)
class CanvasShape:
    """What models must have in common to denoise a canvas together.

    tokenizer: its fingerprint.
    vocabulary: V. Models of one tokenizer may pad their tables to different sizes, and predictions over them cannot be
        combined.
    process: the name of the noise process.
    constants: all of the process's constants.
    block_size: in tokens; None where any will do, as with full or autoregressive attention.
    """

    tokenizer: str
    vocabulary: int
    process: str
    constants: dict[str, float]
    block_size: int | None

    @classmethod
    def of(cls, manifest: Manifest, block_size: int | None = None) -> Self:
        """The canvas that a registered model denoises; with a block size, that of a small model made for it."""
        return cls(manifest.tokenizer, manifest.vocabulary, *manifest.noise, block_size or manifest.fixed_block)

    def misfit(self, other: CanvasShape) -> str | None:
        """What keeps a model of this canvas from joining one of the other, as a clause; None if nothing does."""
        if self.tokenizer != other.tokenizer:
            return "their tokenizers differ"
        if (self.process, self.constants) != (other.process, other.constants):
            return f"its noise process is {self._noise()}, not {other._noise()}"
        if self.vocabulary != other.vocabulary:
            return f"it predicts {self.vocabulary} token ids, not {other.vocabulary}"
        if None not in (self.block_size, other.block_size) and self.block_size != other.block_size:
            return f"its block size is {self.block_size}, not {other.block_size}"
        return None

    def _noise(self) -> str:
        constants = ", ".join(f"{name} {value:g}" for name, value in sorted(self.constants.items()))
        return f"{self.process} ({constants})" if constants else self.process


def misfit(one: Manifest, other: Manifest) -> str | None:
    """What keeps a model from sharing a canvas with another, as a clause about the first; None if nothing does."""
    return CanvasShape.of(one).misfit(CanvasShape.of(other))


def check_fit(entry: Entry, other: Entry, registry: Registry) -> None:
    """Raise UsageError if a model cannot share a canvas with another; it names those that can."""
    problem = misfit(entry.manifest, other.manifest)
    if problem is not None:
        raise UsageError(f"{entry.name!r} does not fit {other.name!r}: {problem}.", _fitting(other, registry))


def _fitting(entry: Entry, registry: Registry) -> str:
    """The registered models that can join this one, as a sentence."""
    members = [other for other in registry.entries() if other.manifest.kind in MEMBERS and other.name != entry.name]
    names = [other.name for other in members if misfit(other.manifest, entry.manifest) is None]
    if names:
        return f"These fit {entry.name!r}: {', '.join(names)}."
    if entry.manifest.kind in MEMBERS:
        return f"No other small model fits {entry.name!r}: combine models that were made for the same core."
    return f"No small model fits {entry.name!r} yet: train one with 'ssd train-small --for {entry.name}'."
