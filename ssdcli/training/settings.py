"""What a training is told: one flat set of settings for flags, variables and recipes."""

from __future__ import annotations

from dataclasses import dataclass, field


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
