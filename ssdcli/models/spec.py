"""What a core's config.json says of itself beyond its native class: the table `ssd`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

KEY = "ssd"  # the table's name in config.json


@dataclass(frozen=True, kw_only=True)
class CoreSpec:
    """How a native checkpoint is run as a diffusion language model.

    family: the name of the adapter that knew it. process, constants: its noise process. attention: "full",
    "block-causal", or "causal" where a prefix is read token by token and a canvas sees itself whole. block_size,
    context: tokens; with full attention the block size is only a proposal. shift: whether the clean token of position i
    is predicted at position i - 1. begin: the id that stands before every text, if any. ends: the ids that end a text.
    suppressed: ids that are never text. late_ends: whether the ends of a masked canvas are revealed last, because the
    model was trained on answers padded with them. format: "chat" where prompts go through the chat template.
    """

    family: str
    process: str
    constants: Mapping[str, float] = field(default_factory=dict)
    attention: str
    block_size: int
    context: int
    shift: bool = False
    begin: int | None = None
    ends: tuple[int, ...]
    suppressed: tuple[int, ...] = ()
    late_ends: bool = False
    format: str = "plain"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self) | {
            "constants": dict(self.constants),
            "ends": list(self.ends),
            "suppressed": list(self.suppressed),
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; TypeError or KeyError for what it cannot have written."""
        return cls(**{**table, "ends": tuple(table["ends"]), "suppressed": tuple(table["suppressed"])})
