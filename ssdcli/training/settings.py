"""What a training is told: one flat set of settings for flags, variables and recipes."""

from __future__ import annotations

from dataclasses import dataclass, field

from ssdcli.errors import UsageError

NO_CORE = "none"
_PROCESSES = ("simplex", "masked")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `ssd train-small`; None means that the data, the core or the size decides."""

    data: tuple[str, ...] = ()
    core: str = field(default="starter", metadata={"flag": "for"})
    name: str = ""
    size: str | None = None
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    heldout: float = 0.05  # share of the documents kept for measuring
    batch_tokens: int = 4096
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 50  # steps
    decay: float = 0.4  # share of the steps over which the learning rate falls to zero
    hidden: int | None = None
    layers: int | None = None
    context: int | None = None  # tokens of a training window
    # Only for a core made from scratch (--for none): a small model takes these from its core.
    process: str = "simplex"
    block_size: int = 16
    vocabulary: int = 8192

    def check(self) -> None:
        """Raise UsageError for what cannot be right whatever the data is."""
        if not self.name:
            raise UsageError("the new model has no name.", "Pass --name.")
        for name, holds, expected in (
            ("minutes", self.minutes is None or self.minutes > 0, "above 0"),
            ("steps", self.steps is None or self.steps > 0, "at least 1"),
            ("heldout", 0 < self.heldout < 1, "between 0 and 1"),
            ("batch_tokens", self.batch_tokens > 0, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or above"),
            ("warmup", self.warmup >= 0, "0 or above"),
            ("decay", 0 <= self.decay <= 1, "between 0 and 1"),
            ("hidden", self.hidden is None or (self.hidden > 0 and self.hidden % 32 == 0), "a multiple of 32"),
            ("layers", self.layers is None or self.layers > 0, "at least 1"),
            ("context", self.context is None or self.context > 0, "at least 1"),
            ("block_size", self.block_size > 0, "at least 1"),
            ("vocabulary", self.vocabulary >= 300, "at least 300"),
            ("process", self.process in _PROCESSES, f"one of {', '.join(_PROCESSES)}"),
        ):
            if not holds:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be {expected}, not {getattr(self, name)}.", f"Change --{flag}.")
        if self.minutes is not None and self.steps is not None:
            raise UsageError("both --minutes and --steps are given.", "Leave one of them out.")
