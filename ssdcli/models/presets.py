"""The sizes that small models come in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A size of small models.

    name: as in --size.
    hidden: H.
    layers: of the body.
    context: in tokens.
    """

    name: str
    hidden: int
    layers: int
    context: int

    @property
    def parameters(self) -> int:
        """Of the body, without embeddings: 4 H^2 of attention and 3 * 8/3 H^2 of SwiGLU make 12 H^2 a layer."""
        return 12 * self.hidden**2 * self.layers


PRESETS = (
    Preset("nano", hidden=96, layers=3, context=256),
    Preset("micro", hidden=192, layers=5, context=256),
    Preset("mini", hidden=384, layers=6, context=512),
    Preset("small", hidden=768, layers=8, context=1024),
    Preset("base", hidden=896, layers=13, context=1024),
)


def find_preset(name: str) -> Preset | None:
    """The preset of this name, or None."""
    return next((preset for preset in PRESETS if preset.name == name), None)
