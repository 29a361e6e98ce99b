"""The settings of a training, one flat set for flags, variables and recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ssdcli.data.reading import Reading
from ssdcli.engine import catalogue
from ssdcli.errors import UsageError, require
from ssdcli.models.presets import PRESETS
from ssdcli.options.checks import Check, above, at_least, between, multiple_of, one_of
from ssdcli.options.declare import check_options, flag_of, option
from ssdcli.registry.names import NO_CORE

FROM_SCRATCH = ("process", "vocabulary")  # a small model takes these from its core
DEFAULT_BLOCK = 16
DEFAULT_MINUTES = 10.0
READING = 0.4  # share of the minutes in which the core may read the text
_MOST_CANARIES = 256
_HIGHEST_RANK = 256
_KEPT = ("size", "hidden", "layers")  # what a training takes from its beginning
_OWN_READING = ("size", "hidden", "layers", "context", "init", "distill")  # of models that read embeddings of their own
_NOT_OF_ADAPTERS = (*_KEPT, "reads_core", "distill", "base")  # of a causal core
_NOT_OF_CAUSAL = ("reads_core", "init", "lora", "distill", "gap_share")
_NOT_OF_HEADS = (*_OWN_READING, "reads_core", "causal", "lora", "base", "canaries", "gap_share")
_OPTIMIZERS = ("muon", "adamw")
_SIZES = tuple(preset.name for preset in PRESETS)


def processes() -> tuple[str, ...]:
    """The names of the noise processes."""
    return catalogue.names(catalogue.PROCESSES)


def _is_part(value: float) -> bool:
    return 0 < value < 1


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `ssd train-small`; None means that the data, the core or the size decides.

    core: empty for the registry's default core.
    """

    data: tuple[str, ...] = option(
        (), "Files and folders of text; - is standard input.", metavar="PATH...", positional=True
    )
    core: str = option(
        "",
        "The core that the model will write with; none makes a core.",
        flag="for",
        metavar="NAME",
        default="that of 'ssd models default'",
        common=True,
        completes="core",
    )
    name: str = option("", "The new model's name.", metavar="NAME", common=True)
    size: str | None = option(
        None,
        f"The model's size: {', '.join(_SIZES)}.",
        one_of(_SIZES),
        metavar="SIZE",
        default="what suits the data and the time",
        common=True,
    )
    minutes: float | None = option(
        None, "Total time, measuring included.", above(0), default=f"{DEFAULT_MINUTES:g}", metavar="M", common=True
    )
    steps: int | None = option(None, "Training steps, instead of --minutes.", at_least(1), metavar="N", common=True)
    # More passes are memorised; a number of steps is taken whole.
    passes: float = option(10.0, "The most passes over the text, even if time remains.", above(0), metavar="N")
    seed: int = option(0, "Seed for weights, order and noise.", metavar="N", common=True)
    init: str | None = option(
        None,
        "Registered model or checkpoint folder to begin from.",
        metavar="NAME|FOLDER",
        default="from scratch",
        common=True,
        completes="beginning",
    )
    reads_core: bool | None = option(
        None,
        "Let the model read the text through the hidden states of a causal core.",
        default="beside causal cores, unless the model is given a shape or a beginning",
        negatable=True,
    )
    causal: bool = option(
        False,
        "Make a causal language model, for a causal core whose hidden states cannot be read.",
    )
    draft_head: bool = option(False, "Train a draft head for a causal core, which makes it faster.")
    lora: int | None = option(
        None,
        "Train only an adapter of this rank, such as 16, on --init or on a causal core itself.",
        between(1, _HIGHEST_RANK),
        metavar="RANK",
        common=True,
    )
    base: str | None = option(
        None,
        f"The small model before specialisation, for --rule {catalogue.needing('base').name}.",
        metavar="NAME",
        completes="member",
    )
    heldout: float = option(
        0.05, "Share of the text to hold out for measuring.", Check("above 0 and below 1", _is_part), metavar="SHARE"
    )
    gap_share: float | None = option(
        None,
        "Share of the texts in training windows that get a gap to fill.",
        between(0, 1),
        metavar="SHARE",
        default="0.25; none for a model that predicts the next token alone",
    )
    memory: bool = option(True, "Keep the text as a memory, a member that needs no training.", negatable=True)
    quotes: bool = option(False, "Keep quoted replies and signatures in mails.")
    me: tuple[str, ...] = option(
        (), "Your name in chats; what you write there is learned as answers. Repeatable.", metavar="NAME"
    )
    include: tuple[str, ...] = option(
        (),
        "Read what would be left out of a folder, by patterns as in .gitignore. Repeatable.",
        metavar="PATTERN",
    )
    canaries: int = option(
        0,
        "Made-up secrets to plant in the text for 'ssd audit'; 8 are enough.",
        between(0, _MOST_CANARIES),
        metavar="N",
    )
    distill: str | None = option(
        None,
        "A model, such as the core, whose predictions are learned too.",
        metavar="NAME",
        completes="core",
    )
    distill_weight: float = option(0.3, "Share of the loss that is the teacher's.", above(0, most=1), metavar="SHARE")
    distill_context: bool = option(
        False, "Let the teacher read each document first: the --distill model, or a causal core that --lora tunes."
    )
    shift: bool | None = option(
        None,
        "Predict each token from the position before it, as causal models do.",
        default="what suits --init and the noise",
        negatable=True,
    )
    optimizer: str | None = option(
        None,
        "muon (for matrices, with AdamW for the rest) or adamw.",
        one_of(_OPTIMIZERS),
        metavar="NAME",
        default="muon; adamw for what reads the core's states",
    )
    batch_tokens: int | None = option(
        None, "Tokens per training step.", at_least(1), metavar="N", default="what suits the text"
    )
    learning_rate: float | None = option(
        None, "Peak learning rate.", above(0), metavar="X", default="what suits the beginning"
    )
    weight_decay: float = option(0.1, "Weight decay of the matrices.", at_least(0), metavar="X")
    warmup: int = option(50, "Steps over which the learning rate rises.", at_least(0), metavar="N")
    decay: float | None = option(
        None,
        "Share of the steps over which the learning rate falls to zero.",
        between(0, 1),
        metavar="SHARE",
        default="0.4; 0.9 for a model that reads the core, 0.5 for an adapter of it",
    )
    patience: int = option(
        4,
        "Stop early after this many of the 20 measurements without improvement; 0 never stops early.",
        at_least(0),
        metavar="N",
    )
    hidden: int | None = option(
        None,
        "Hidden width; overrides --size. With --reads-core, that of the layer which reads the core's states.",
        multiple_of(32),
        metavar="N",
    )
    layers: int | None = option(None, "Number of layers; overrides --size.", at_least(1), metavar="N")
    context: int | None = option(
        None, "Tokens per training window.", at_least(1), metavar="N", default="what suits the size"
    )
    checkpoint_seconds: float = option(60.0, "Seconds between checkpoints.", at_least(0), metavar="S")
    block_size: int | None = option(
        None,
        "Tokens per block, if the core does not fix it.",
        multiple_of(4),  # see Denoiser
        metavar="N",
        default="the core's",
    )
    # FROM_SCRATCH: only for a core (--for none).
    process: str = option(
        processes()[0],
        f"Only with --for none: {catalogue.described(catalogue.PROCESSES)}.",
        one_of(processes),
        metavar="NAME",
    )
    vocabulary: int = option(8192, "Tokens in the vocabulary, only with --for none.", at_least(300), metavar="N")

    def __post_init__(self) -> None:
        check_options(self)
        if self.core != NO_CORE:
            self._check_left_to_core()
        self._check_beginning()
        own = self.given_own_reading()
        if self.reads_core and own is not None:
            problem = f"--{own} was given, but a model that reads the core has no {own} of its own."
            raise UsageError(problem, f"Omit --{own}, or pass --no-reads-core.")
        if self.causal:
            self._check_causal()
        if self.draft_head:
            self._check_draft_head()
        if self.distill_context and self.distill is None and not self.tunes_core:
            remedy = "Name one with --distill, or tune a causal core itself with --lora."
            raise UsageError("--distill-context was given, but no teacher.", remedy)

    @property
    def tunes_core(self) -> bool:
        """Whether an adapter of the core itself is asked for, which has to be a causal one."""
        return self.lora is not None and self.init is None

    @property
    def reading(self) -> Reading:
        """How the text is read."""
        return Reading(self.quotes, self.me, self.include)

    def given_own_reading(self) -> str | None:
        """A setting that is given and that only a model with embeddings of its own has; None if there is none."""
        given = (name for name in _OWN_READING if getattr(self, name) is not None)
        return next((name for name in given if not (name == "hidden" and self.reads_core)), None)

    def check_complete(self) -> None:
        """Raise UsageError unless a training can start: it needs a name, and only one budget."""
        if not self.name:
            raise UsageError("the new model has no name.", "Pass --name.")
        self.check_together()

    def check_together(self) -> None:
        """Raise UsageError for settings that exclude each other, though flags may still replace one of them."""
        if self.minutes is not None and self.steps is not None:
            raise UsageError("both --minutes and --steps are given.", "Omit one of them.")

    def _check_beginning(self) -> None:
        if self.init is None:
            given = "shift" if self.shift is not None else "lora" if self.lora and self.core == NO_CORE else None
            if given is not None:
                raise UsageError(f"--{given} was given, but --init was not.", "Name what to begin from with --init.")
            if self.lora is not None:
                self._check_tuned_core()
            return
        if self.core == NO_CORE:
            problem = "what --init names has a tokenizer already, and a core from scratch learns its own."
            raise UsageError(problem, "Name the core that it fits with --for, or omit --init.")
        for name in _KEPT:
            if getattr(self, name) is not None:
                problem = f"--{name} was given, but '{self.init}' already has a shape."
                raise UsageError(problem, f"Omit --{name} or --init.")
        if self.lora is not None and self.base is not None:
            raise UsageError("an adapter's base is what it begins from.", "Omit --base.")

    def _check_tuned_core(self) -> None:
        """UsageError for what an adapter of a causal core takes from it."""
        self._refuse(_NOT_OF_ADAPTERS, "an adapter of the core has no use for it")

    def _check_causal(self) -> None:
        """UsageError for what a small causal model cannot be, or cannot begin from."""
        require(self.core != NO_CORE, "a causal small model is made for a causal core.", "Name one with --for.")
        self._refuse(
            _NOT_OF_CAUSAL, "a model of --causal learns to go on with the text alone, from scratch", " or --causal"
        )

    def _check_draft_head(self) -> None:
        require(self.core != NO_CORE, "a draft head drafts for a core.", "Name one with --for.")
        self._refuse(_NOT_OF_HEADS, "a draft head (--recipe base or --draft-head) has no use for it")

    def _refuse(self, names: Sequence[str], why: str, other: str = "") -> None:
        """UsageError for the first of these settings that is given; other: what may be omitted in its place."""
        flags = {member.name: flag_of(member) for member in fields(self)}
        given = next((flags[name] for name in names if getattr(self, name)), None)
        if given is not None:
            raise UsageError(f"--{given} was given, and {why}.", f"Omit --{given}{other}.")

    def _check_left_to_core(self) -> None:
        for member in fields(self):
            if member.name in FROM_SCRATCH and getattr(self, member.name) != member.default:
                flag = flag_of(member)
                decides = f"the core '{self.core}'" if self.core else "the core"
                problem = f"--{flag} was given, but {decides} decides that."
                raise UsageError(problem, f"Omit --{flag}, or make a core with --for {NO_CORE}.")
