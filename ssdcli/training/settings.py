"""What a training is told: one flat set of settings for flags, variables and recipes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ssdcli.engine import catalogue
from ssdcli.errors import UsageError
from ssdcli.models.presets import PRESETS, find_preset

NO_CORE = "none"
FROM_SCRATCH = ("process", "vocabulary")  # a small model takes these from its core
DEFAULT_BLOCK = 16
DEFAULT_MINUTES = 10.0
_MOST_CANARIES = 256
_HIGHEST_RANK = 256
_KEPT = ("size", "hidden", "layers")  # what a training takes from its beginning
_OPTIMIZERS = ("muon", "adamw")
_SIZES = ", ".join(preset.name for preset in PRESETS)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `ssd train-small`; None means that the data, the core or the size decides."""

    data: tuple[str, ...] = ()
    core: str = field(default="starter", metadata={"flag": "for"})
    name: str = ""
    size: str | None = None
    minutes: float | None = None
    steps: int | None = None
    passes: float = 10.0  # over the training text, at most; more are memorised (a number of steps is taken whole)
    seed: int = 0
    init: str | None = None  # a registered model, or the folder of a checkpoint, that the training begins from
    lora: int | None = None  # the rank of an adapter, which alone is trained
    base: str | None = None  # the small model that this one is contrasted with
    heldout: float = 0.05  # share of the documents kept for measuring
    gap_share: float = 0.25  # share of the training windows with a gap to fill
    canaries: int = 0  # made-up secrets in the training text, by which an audit tells what was memorised
    distill: str | None = None  # the model whose predictions are learned beside the text
    distill_weight: float = 0.3  # their share of the loss
    distill_context: bool = False  # whether that model has read each document before it predicts it
    shift: bool | None = None  # whether a token is predicted where the one before it stands; None: what suits it
    optimizer: str = "muon"
    batch_tokens: int | None = None  # of a step; None for what suits the text, see `choose_batch_tokens`
    learning_rate: float | None = None  # at its peak; None for what suits the beginning, see `choose_rate`
    weight_decay: float = 0.1
    warmup: int = 50  # steps
    decay: float = 0.4  # share of the steps over which the learning rate falls to zero
    patience: int = 4  # of 20 measurements; held-out losses without progress before the training ends early
    hidden: int | None = None
    layers: int | None = None
    context: int | None = None  # tokens of a training window
    checkpoint_seconds: float = 60.0  # between checkpoints
    block_size: int | None = None  # a core decides about it, unless it has full attention
    # FROM_SCRATCH: only for a core (--for none).
    process: str = catalogue.PROCESSES[0].name
    vocabulary: int = 8192

    def check(self) -> None:
        """Raise UsageError for what cannot be right whatever the data is."""
        processes = catalogue.names(catalogue.PROCESSES)
        if not self.name:
            raise UsageError("the new model has no name.", "Pass --name.")
        for name, holds, expected in (
            ("size", self.size is None or find_preset(self.size) is not None, f"one of {_SIZES}"),
            ("minutes", self.minutes is None or 0 < self.minutes < math.inf, "above 0"),
            ("steps", self.steps is None or self.steps > 0, "at least 1"),
            ("passes", 0 < self.passes < math.inf, "above 0"),
            ("heldout", 0 < self.heldout < 1, "between 0 and 1"),
            ("gap_share", 0 <= self.gap_share <= 1, "between 0 and 1"),
            ("canaries", 0 <= self.canaries <= _MOST_CANARIES, f"from 0 to {_MOST_CANARIES}"),
            ("distill_weight", 0 <= self.distill_weight <= 1, "between 0 and 1"),
            ("lora", self.lora is None or 1 <= self.lora <= _HIGHEST_RANK, f"from 1 to {_HIGHEST_RANK}"),
            ("batch_tokens", self.batch_tokens is None or self.batch_tokens > 0, "at least 1"),
            ("learning_rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or above"),
            ("optimizer", self.optimizer in _OPTIMIZERS, f"one of {', '.join(_OPTIMIZERS)}"),
            ("patience", self.patience >= 0, "0 or above"),
            ("warmup", self.warmup >= 0, "0 or above"),
            ("decay", 0 <= self.decay <= 1, "between 0 and 1"),
            ("hidden", self.hidden is None or (self.hidden > 0 and self.hidden % 32 == 0), "a multiple of 32"),
            ("layers", self.layers is None or self.layers > 0, "at least 1"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, "0 or above"),
            ("context", self.context is None or self.context > 0, "at least 1"),
            ("block_size", _is_block(self.block_size), "a multiple of 4"),  # see Denoiser
            ("vocabulary", self.vocabulary >= 300, "at least 300"),
            ("process", self.process in processes, f"one of {', '.join(processes)}"),
        ):
            if not holds:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be {expected}, not {getattr(self, name)}.", f"Change --{flag}.")
        if self.core != NO_CORE:
            self._check_left_to_core()
        self._check_beginning()
        if self.distill is None and self.distill_context:
            raise UsageError("--distill-context was given, but no teacher.", "Name one with --distill.")
        if self.minutes is not None and self.steps is not None:
            raise UsageError("both --minutes and --steps are given.", "Leave one of them out.")

    def _check_beginning(self) -> None:
        if self.init is None:
            for flag, given in (("lora", self.lora), ("shift", self.shift)):
                if given is not None:
                    raise UsageError(f"--{flag} was given, but nothing to begin from.", "Name it with --init.")
            return
        if self.core == NO_CORE:
            problem = "a beginning has a tokenizer already, and a core from scratch learns its own."
            raise UsageError(problem, "Name the core that it fits with --for, or leave --init out.")
        for name in _KEPT:
            if getattr(self, name) is not None:
                problem = f"--{name} was given, but '{self.init}' has its shape already."
                raise UsageError(problem, f"Leave --{name} out, or --init.")
        if self.lora is not None and self.base is not None:
            raise UsageError("an adapter's base is what it begins from.", "Leave --base out.")

    def _check_left_to_core(self) -> None:
        for name in FROM_SCRATCH:
            if getattr(self, name) != getattr(TrainSettings, name):
                flag = name.replace("_", "-")
                problem = f"--{flag} was given, but the core '{self.core}' decides about it."
                raise UsageError(problem, f"Leave --{flag} out, or make a core with --for none.")


def _is_block(size: int | None) -> bool:
    return size is None or (size > 0 and size % 4 == 0)
