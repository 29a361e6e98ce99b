"""What goes into a `Writer` and what comes out: `Request` and `Options`, `Piece` and `Result`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from ssdcli.errors import UsageError
from ssdcli.transcript import FinishReason


def require(holds: bool, problem: str, remedy: str = "Give such a value.") -> None:
    """Raise UsageError unless the condition holds."""
    if not holds:
        raise UsageError(problem, remedy)


@dataclass(frozen=True)
class Options:
    """How to write; every value is checked when it is made (UsageError).

    max_tokens: the longest answer. steps: denoising steps a block, by default the noise process's own.
    temperature: 0 takes the likeliest token. top_p: the mass that tokens are drawn from.
    stop: strings that end the text and are not part of it.
    seed: drawn when None; the k-th text of a call has the seed plus k, from 0.
    n: texts a prompt.
    """

    max_tokens: int = 128
    steps: int | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1

    def __post_init__(self) -> None:
        require(self.max_tokens >= 0, f"max-tokens must be at least 0, not {self.max_tokens}.")
        require(self.steps is None or self.steps >= 1, f"steps must be at least 1, not {self.steps}.")
        heat = 0 <= self.temperature < math.inf
        require(heat, f"temperature must be at least 0, not {self.temperature}.")
        require(0 < self.top_p <= 1, f"top-p must be above 0 and at most 1, not {self.top_p}.")
        require(all(self.stop), "a stop string must not be empty.")
        require(self.n >= 1, f"n must be at least 1, not {self.n}.")


DEFAULTS = Options()


class OptionChanges(TypedDict, total=False):
    """The fields of `Options` as keyword arguments."""

    max_tokens: int
    steps: int | None
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    n: int


@dataclass(frozen=True)
class Request:
    """One prompt of a batch; only the small members see its context, and its seed wins over the options'."""

    prompt: str
    context: str = ""
    id: str | int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class MemberUse:
    """A member's share and its denoising forward passes; those that read text are not counted."""

    name: str
    weight: float
    forward_passes: int


@dataclass(frozen=True)
class Result:
    """A finished text and what it took.

    core: None when there was none. members: the core first. tokens: of the text. steps: denoising steps.
    seconds: from the start of the row's batch to the row's end.
    warnings: sentences, such as that a prompt was cut.
    """

    id: str | int
    prompt: str
    text: str
    finish_reason: FinishReason
    seed: int
    core: str | None
    members: tuple[MemberUse, ...]
    tokens: int
    steps: int
    seconds: float
    warnings: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the text by seconds taken."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd generate --json` writes."""
        fields = asdict(self)
        del fields["warnings"]
        fields["members"] = list(fields["members"])
        return fields | {"tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Piece:
    """A stretch of committed text; the last piece of a text carries its result."""

    text: str
    result: Result | None = None
