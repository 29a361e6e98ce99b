"""How a native checkpoint is run as a diffusion language model, and what its config.json says of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ssdcli.registry.manifest import Manifest, ModelSpec
from ssdcli.registry.schema import REMOVED_CORE_FIELDS

_CACHED = 4096  # tokens; longer texts take more memory than is counted on
KEY = "ssd"  # the table's name in config.json


@dataclass(frozen=True, kw_only=True)
class CoreSpec(ModelSpec):
    """How a native checkpoint is run.

    In the registry the manifest holds what all models have, and the table in config.json these three alone. A
    checkpoint that has no manifest may hold all of it in the table.

    shift: whether the clean token of position i is predicted at position i - 1.
    suppressed: ids that are never text.
    late_ends: whether the ends of a masked canvas are revealed last, because the model was trained on answers padded
        with them.
    """

    shift: bool = False
    suppressed: tuple[int, ...] = ()
    late_ends: bool = False

    def vocabulary(self, rows: int) -> int:
        """V for a table of so many embeddings: one more where the mask has a virtual id, without a row of its own."""
        return max(rows, int(self.constants.get("mask_id", 0)) + 1)

    @property
    def cached_tokens(self) -> int:
        """The tokens whose keys and values must fit beside the weights of a causal core; none for others."""
        return min(self.context, _CACHED) if self.attention == "autoregressive" else 0

    def table(self) -> dict[str, Any]:
        """The table in config.json where a manifest holds the rest."""
        return {"shift": self.shift, "suppressed": list(self.suppressed), "late_ends": self.late_ends}

    def to_json(self) -> dict[str, Any]:
        """The table in config.json where there is no manifest."""
        return asdict(self) | {"ends": list(self.ends), "suppressed": list(self.suppressed)}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; TypeError, KeyError or SsdError for what it cannot have written."""
        values = {key: value for key, value in dict(table).items() if key not in REMOVED_CORE_FIELDS}
        return cls(**{**values, "ends": tuple(table["ends"]), "suppressed": tuple(table["suppressed"])})

    @classmethod
    def of(cls, manifest: Manifest, table: Mapping[str, Any]) -> Self:
        """A registered core's, from its manifest and the table in its config.json; errors as in `from_json`."""
        return cls.from_json({**table, **spec_fields(manifest)})


def spec_fields(manifest: ModelSpec) -> dict[str, Any]:
    """The fields of a manifest or spec that say how a model is run."""
    return {member.name: getattr(manifest, member.name) for member in fields(ModelSpec)}
