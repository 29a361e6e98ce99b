"""What goes into a `Writer` and what comes out: `Request` and `Options`, `Piece` and `Result`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypedDict

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.members import Member
from ssdcli.errors import require
from ssdcli.generation.private_context import ContextFile, Picked
from ssdcli.options.checks import Check, above, at_least, between, each
from ssdcli.options.declare import check_options, option
from ssdcli.text.messages import Message

FinishReason = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Options:
    """How to write; values are checked when the object is made (UsageError).

    max_tokens: the longest text.
    steps: denoising steps for each block.
    temperature: 0 takes the likeliest token; where a core has temperatures of its own, another value multiplies them.
    top_p: the probability mass of the nucleus that tokens are drawn from.
    min_p: the least probability of a token that is drawn, as a share of the likeliest's.
    repetition_penalty: divides the logits of tokens of the prompt and the text so far, of which those of the uniform
        distribution are zero; 1 for none.
    no_repeat: so many tokens in a row are never written again; 0 to allow all, None for what suits the members.
    max_copy: the most tokens in a row that are copied from a memory, where texts are written from the left; 0 for all.
    stop: strings that end the text and are not part of it.
    seed: of the first prompt; the prompts of a batch count up from it.
    n: texts for each prompt.
    sampler: how a denoising step chooses tokens, NAME or NAME=X.
    draft: the most tokens that are drafted for a causal core to verify at once; None for as many as are worth it.
    remask: the probability that a step hides a known token again.
    early_stop: denoising of a text stops once it is stable with a mean entropy below this, in nats per token.
    infill: whether the gaps of the prompt are filled; the text is then the whole prompt with its gaps filled.
    gap: the most tokens that fill a gap.
    candidates: fills of a gap, of which a causal core chooses the one that the text behind it follows best.
    explain: whether each token is attributed to the members.
    alternatives: how many of the likeliest tokens in the place of each are kept, where tokens are attributed.
    endless: whether the text goes on after an end of text.
    system: text before the conversation, by the chat template, or as a first paragraph where there is none.
    pick: whether the members see only those passages of a private context that make the prompt likelier to the core.
    plain: whether prompts are text to continue, even for models that have a chat template; False puts them through it.
        By default conversations go through the template, and prompts are read as suits the text that the first small
        model was trained on, or else the core.
    """

    max_tokens: int = option(128, "The most tokens to write.", at_least(0), metavar="N", common=True)
    steps: int | None = option(
        None, "Denoising steps for each block.", at_least(1), metavar="N", default="what the noise process needs"
    )
    temperature: float = option(1.0, "0 takes the likeliest tokens.", at_least(0), metavar="T", common=True)
    top_p: float = option(
        0.95,
        "Draw from the likeliest tokens that together have this probability.",
        above(0, most=1),
        metavar="P",
    )
    min_p: float = option(
        0.0,
        "Draw only tokens of at least this share of the likeliest token's probability.",
        between(0, 1),
        metavar="P",
    )
    repetition_penalty: float = option(
        1.0,
        "Divide the logits of tokens that already occur in the prompt or the text; 1 is no penalty.",
        above(0),
        metavar="X",
    )
    no_repeat: int | None = option(
        None,
        "Never repeat N tokens in a row from the prompt or the text; 0 allows it.",
        at_least(0),
        metavar="N",
        default="8 at temperature 0 where small models or memories join a causal core, else 0",
    )
    max_copy: int = option(
        0,
        "Copy at most N tokens in a row from a memory; 0 allows all.",
        at_least(0),
        metavar="N",
    )
    stop: tuple[str, ...] = option(
        (), "End before this text. Repeatable.", each(Check("text that is not empty", bool, "END")), metavar="TEXT"
    )
    seed: int | None = option(
        None, "The same seed gives the same text.", metavar="N", default="drawn at random", common=True
    )
    n: int = option(1, "Texts for each prompt, separated by lines of three dashes.", at_least(1), metavar="N")
    sampler: str | None = option(
        None,
        f"How a step chooses tokens. {catalogue.sampler_help()}.",
        metavar="NAME[=X]",
        default="the first",
    )
    draft: int | None = option(
        None,
        "Beside a causal core, draft at most N tokens from memories, the text and the core's states, and verify them "
        "in one pass; 0 for none. It changes the speed, not what the text is drawn from.",
        at_least(0),
        metavar="N",
        default="as many as have been worth it of late",
    )
    remask: float = option(
        catalogue.REMASK.usual,
        "Probability that a step of a masked model hides a known token again.",
        catalogue.REMASK.check,
        metavar=catalogue.REMASK.symbol,
    )
    early_stop: float | None = option(
        None,
        "Stop denoising a text that is stable and has a lower mean entropy than this; 0 for never.",
        at_least(0),
        metavar="NATS",
        default="what suits the noise process",
    )
    infill: bool = option(False, "Fill the gaps, ____, in the prompt, and write all of it.")
    gap: int = option(16, "The most tokens that fill a gap.", at_least(1), metavar="N")
    candidates: int = option(
        8,
        "Fills of a gap that a causal core, which cannot see behind it, chooses from; 1 for no choice.",
        at_least(1),
        metavar="N",
    )
    explain: bool = option(
        False, "Colour each token by the member that it owes most to; with --json, write the numbers."
    )
    alternatives: int = 0
    endless: bool = False
    system: str = option(
        "",
        "System text before the conversation; for models without a chat template, a first paragraph.",
        metavar="TEXT",
    )
    pick: bool = option(
        False, "Keep of the private context only the passages that make the prompt likelier to a causal core."
    )
    plain: bool | None = option(
        None,
        "Continue the prompt as text, or put it through the core's chat template.",
        default="as in the text that the first small model was trained on; without one, the template if there is one",
        negatable=True,
    )

    def __post_init__(self) -> None:
        check_options(self)


DEFAULTS = Options()


class OptionChanges(TypedDict, total=False):
    """Fields of `Options` as keyword arguments, which replace those of other options."""

    max_tokens: int
    steps: int | None
    temperature: float
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat: int | None
    max_copy: int
    stop: tuple[str, ...]
    seed: int | None
    n: int
    sampler: str | None
    draft: int | None
    remask: float
    early_stop: float | None
    infill: bool
    gap: int
    candidates: int
    explain: bool
    alternatives: int
    endless: bool
    system: str
    pick: bool
    plain: bool | None


_LEVELS = 100  # at which a schedule is looked at, besides 0


@dataclass(frozen=True)
class Request:
    """One prompt or conversation.

    prompt: text to continue.
    context: private text, which only small models and memories see.
    files: those that the context begins with, so that it can be told where its passages stand.
    id: names the result; by default its place in the batch.
    seed, system, plain: used instead of the options'.
    messages: a conversation instead of a prompt. The first message may have the role "system"; if the last has the
        role "assistant", its text is continued.
    ids: a prompt in tokens instead, which all members read as they are.
    """

    prompt: str = ""
    context: str = ""
    id: str | int | None = None
    seed: int | None = None
    messages: tuple[Message, ...] = ()
    system: str = ""
    plain: bool | None = None
    ids: tuple[int, ...] = ()
    files: tuple[ContextFile, ...] = ()

    def __post_init__(self) -> None:
        alone = not (self.ids and (self.prompt or self.messages or self.context))
        require(alone, "a prompt in tokens excludes text, messages and private context.", "Omit one of them.")
        if self.messages:
            first, *others = [message.role for message in self.messages]
            require(not self.prompt, "a prompt and messages exclude each other.", "Omit one of them.")
            require("user" in others or first == "user", "there is no user message.", "Add one.")
            require("system" not in others, 'only the first message may have the role "system".', "Move it there.")
            twice = first == "system" and self.system
            require(not twice, "there are two system texts, an option and a message.", "Omit one of them.")

    @property
    def turns(self) -> tuple[Message, ...]:
        """The whole conversation; a prompt counts as a user message."""
        before = (Message("system", self.system),) if self.system else ()
        said = self.messages if self.messages else (Message("user", self.prompt),)
        return before + said

    @property
    def asked(self) -> str:
        """The last user message."""
        return next(turn.content for turn in reversed(self.turns) if turn.role == "user")

    def under(self, options: Options) -> Request:
        """The same request with the system text and the manner of reading of these options, unless it has its own."""
        system = self.system if self.turns[0].role == "system" else options.system
        return replace(self, system=system, plain=options.plain if self.plain is None else self.plain)


@dataclass(frozen=True)
class Contribution(Member[None]):
    """A member of a finished text, and its work on it.

    forward_passes: denoising passes; those that read text are not counted.
    flops: estimated floating point operations of all passes.
    """

    forward_passes: int = 0
    flops: int = 0

    @property
    def weights(self) -> str:
        """Its weight, or the least and the greatest of its schedule: `0.4`, `0.1 to 0.9`; a base's are negated."""
        over_levels = [self.weight_at(level / _LEVELS) for level in range(_LEVELS + 1)]
        least, greatest = min(over_levels), max(over_levels)
        return f"{least:g}" if least == greatest else f"{least:.2g} to {greatest:.2g}"

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
    """The attribution of a written token.

    token: its id.
    text: the characters that it added.
    p: its probability when it was chosen.
    by: each member's share in that, by name; the shares sum to one.
    source: FILE:LINE of the place in a memory that shares most tokens before it; None where there is none.
    top: the likeliest tokens in its place, with log p, as many as the options asked for.
    weights: of several small models there, see `Result`.
    """

    token: int
    text: str
    p: float
    by: dict[str, float]
    source: str | None = None
    top: tuple[tuple[int, float], ...] = ()
    weights: dict[str, float] | None = None


@dataclass(frozen=True)
class Result:
    """A finished text and its cost.

    id: the request's.
    prompt: the last user message.
    text: without the prompt, unless its gaps were filled.
    finish_reason: "end" of text, a "stop" string, or "length".
    seed: the text's own.
    core: its name; None without one.
    members: the core first.
    tokens: of the text.
    steps: denoising steps.
    seconds: from the start of its batch until it was finished.
    flops_saved: the share of the computation that the schedule saved; 0 if every member ran at every step.
    drafted: tokens that were drafted and verified; None where no token can be.
    accepted: those of them that are in the text.
    plain: whether the prompt was continued as text, not put through a chat template.
    warnings: sentences, such as that a prompt was cut.
    picked: what was kept of the private context, if the options asked for the least of it.
    explain: the attribution of its tokens, if the options asked for it.
    weights: of several small models, each with what joins it, by the text so far: the means over the tokens. None
        where they are not weighed so.
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
    plain: bool
    drafted: int | None = None
    accepted: int | None = None
    warnings: tuple[str, ...] = ()
    picked: Picked | None = None
    explain: tuple[TokenShares, ...] | None = None
    weights: dict[str, float] | None = None

    @property
    def tokens_per_second(self) -> float:
        """The speed of writing."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """The object that `ssd generate --json` writes."""
        fields = asdict(replace(self, members=()))
        fields["members"] = [member.to_json() for member in self.members]
        del fields["warnings"]
        for token in fields["explain"] or ():
            del token["top"]
            if token["weights"] is None:
                del token["weights"]
        for optional in ("picked", "explain", "weights"):
            if fields[optional] is None:
                del fields[optional]
        return fields | {"tokens_per_second": self.tokens_per_second}


@dataclass(frozen=True)
class Piece:
    """Committed text.

    text: what is new; it may be empty.
    result: of the whole text, with its last piece.
    """

    text: str
    result: Result | None = None
