"""What goes into a `Writer` and what comes out: `Request` and `Options`, `Piece` and `Result`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import require
from ssdcli.generation.transcript import FinishReason
from ssdcli.text.messages import Message


@dataclass(frozen=True)
class Options:
    """How to write; every value is checked when it is made (UsageError).

    max_tokens: the longest answer. steps: denoising steps a block, by default the noise process's own.
    temperature: 0 takes the likeliest token; any other is a factor where a core brings temperatures of its own.
    top_p: the mass that tokens are drawn from.
    stop: strings that end the text and are not part of it.
    seed: drawn when None; the k-th text of a call has the seed plus k, from 0.
    n: texts a prompt.
    sampler: how a denoising step chooses, NAME or NAME=X, by default the noise process's own.
    remask: the probability with which a step takes a known token back (masked models).
    early_stop: a text stops denoising once it is stable and its mean entropy is below so many nats a token; 0 for
    never, by default as the noise process does.
    infill: fill the gaps, `____`, of the prompt with at most `gap` tokens each; the text is the whole, filled.
    explain: tell for each token which member it owes most to.
    system: what comes before a conversation: by the chat template, or as a first paragraph where there is none.
    """

    max_tokens: int = 128
    steps: int | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    sampler: str | None = None
    remask: float = 0.0
    early_stop: float | None = None
    infill: bool = False
    gap: int = 16
    explain: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        require(self.max_tokens >= 0, f"max-tokens must be at least 0, not {self.max_tokens}.")
        require(self.steps is None or self.steps >= 1, f"steps must be at least 1, not {self.steps}.")
        heat = 0 <= self.temperature < math.inf
        require(heat, f"temperature must be at least 0, not {self.temperature}.")
        require(0 < self.top_p <= 1, f"top-p must be above 0 and at most 1, not {self.top_p}.")
        require(all(self.stop), "a stop string must not be empty.")
        require(self.n >= 1, f"n must be at least 1, not {self.n}.")
        require(0 <= self.remask < 1, f"remask must be at least 0 and below 1, not {self.remask}.")
        bound = self.early_stop is None or 0 <= self.early_stop < math.inf
        require(bound, f"early-stop must be at least 0, not {self.early_stop}.")
        require(self.gap >= 1, f"gap must be at least 1, not {self.gap}.")


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
    sampler: str | None
    remask: float
    early_stop: float | None
    infill: bool
    gap: int
    explain: bool
    system: str


@dataclass(frozen=True)
class Blend:
    """How members combine: a rule, a schedule, and guides.

    rule: a name that the catalogue has.
    schedule: a name that the catalogue has, NAME or NAME:X, or a file; by default the noise process's own where a core
        and small models share the weight, else constant.
    guides: classifiers to steer by, each MODEL:LABEL or MODEL:LABEL=SCALE.
    """

    rule: str = catalogue.RULES[0].name
    schedule: str | None = None
    guides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules = catalogue.names(catalogue.RULES)
        require(self.rule in rules, f"rule must be one of {', '.join(rules)}, not {self.rule!r}.")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the rule needs besides predictions, see the catalogue."""
        return catalogue.rule(self.rule).needs


PLAIN = Blend()


@dataclass(frozen=True)
class Request:
    """One prompt, or one conversation, of a batch; only the small members see its context.

    seed, system: win over the options'. messages: instead of a prompt; the first may be the system's, and if the last
    is the assistant's, its text is gone on from.
    """

    prompt: str = ""
    context: str = ""
    id: str | int | None = None
    seed: int | None = None
    messages: tuple[Message, ...] = ()
    system: str = ""

    def __post_init__(self) -> None:
        if self.messages:
            first, *others = [message.role for message in self.messages]
            require(not self.prompt, "a prompt and messages exclude each other.", "Leave one of them away.")
            require("user" in others or first == "user", "no message is the user's.", "Add what the user says.")
            require("system" not in others, "only the first message can be the system's.", "Move it there.")
            twice = first == "system" and self.system
            require(not twice, "the system text is given apart and in a message.", "Leave one of them away.")

    @property
    def turns(self) -> tuple[Message, ...]:
        """The whole conversation; a prompt is a message of the user's."""
        before = (Message("system", self.system),) if self.system else ()
        said = self.messages if self.messages else (Message("user", self.prompt),)
        return before + said

    @property
    def asked(self) -> str:
        """What the user said last."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")

    def under(self, system: str) -> Request:
        """The same request with this system text, unless it has its own."""
        return self if self.turns[0].role == "system" else replace(self, system=system)


@dataclass(frozen=True)
class Contribution(Member[None]):
    """A member of a finished text, and what it did for it.

    forward_passes: denoising passes; those that read text are not counted.
    flops: estimated floating point operations of all passes.
    """

    forward_passes: int = 0
    flops: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object in the `members` of `ssd generate --json`; a base's weight is negated."""
        return {
            "name": self.name,
            "role": self.role,
            "weight": self.signed(self.weight),
            "forward_passes": self.forward_passes,
            "flops": self.flops,
        }


@dataclass(frozen=True)
class TokenShares:
    """A written token, its probability when it was chosen, and each member's share in that, which sum to one."""

    token: int
    text: str
    p: float
    by: dict[str, float]


@dataclass(frozen=True)
class Result:
    """A finished text and what it took.

    core: None when there was none. members: the core first. tokens: of the text. steps: denoising steps.
    seconds: from the start of the row's batch to the row's end.
    flops_saved: the share of the denoising that the schedule spared, 0 where every member ran at every step.
    explain: the text's tokens, if the options asked for it.
    warnings: sentences, such as that a prompt was cut.
    """

    id: str | int
    prompt: str
    text: str
    finish_reason: FinishReason
    seed: int
    core: str | None
    members: tuple[Contribution, ...]
    tokens: int
    steps: int
    seconds: float
    flops_saved: float
    warnings: tuple[str, ...] = ()
    explain: tuple[TokenShares, ...] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the text by seconds taken."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd generate --json` writes."""
        fields = asdict(replace(self, members=()))
        fields["members"] = [member.to_json() for member in self.members]
        del fields["warnings"]
        if self.explain is None:
            del fields["explain"]
        return fields | {"tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Piece:
    """A stretch of committed text; the last piece of a text carries its result."""

    text: str
    result: Result | None = None
