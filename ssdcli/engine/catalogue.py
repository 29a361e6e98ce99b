"""What there is to choose from: noise processes, samplers, rules and schedules, each declared once. Needs no torch.

A new one is a file of its own and an entry here. The command line, manifests, settings and the engine read this
catalogue, and no other module names what is in it. The first entry of a kind is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from ssdcli.options.checks import Check, above, at_least, between, whole


@dataclass(frozen=True, kw_only=True)
class Number:
    """A numeric parameter, as in `threshold=0.9`, with its bounds.

    name: the argument that takes it.
    symbol: its placeholder in help texts.
    default: None where the process has its own, or none is needed.
    check: what it must be.
    """

    name: str
    symbol: str
    default: float | None = None
    check: Check = field(default_factory=lambda: at_least(0))

    @property
    def usual(self) -> float:
        """The default; ValueError where the process has its own."""
        if self.default is None:
            raise ValueError(f"{self.name} has no default of its own")
        return self.default

    def checked(self, value: float) -> float:
        """The value; ValueError where it is out of bounds."""
        if not self.check.holds(value):
            raise ValueError(f"{self.name} must be {self.check}, not {value}")
        return value


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Something that can be chosen by name.

    target: where it is, as `module:object`.
    help: what it does, for help texts and the reference.
    """

    name: str
    target: str
    help: str

    def load(self) -> Any:
        """Import the object."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class ProcessDeclaration(Declaration):
    """A noise process. The target makes one from a vocabulary size and constants.

    constants: their defaults, for a model that is trained from scratch.
    optional: those of them that a manifest may omit.
    published: how a checkpoint was sampled by its authors: constants that a manifest may have for the samplers alone.
    schedule: the default of small models beside a core (measured in docs/lab/gating.md).
    """

    constants: Mapping[str, float] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    schedule: str = "constant"

    def for_samplers(self, constants: Mapping[str, float]) -> dict[str, float]:
        """Those constants of a manifest that say how its checkpoint was sampled by its authors."""
        return {name: constants[name] for name in self.published if name in constants}

    def completed(self, constants: Mapping[str, float]) -> dict[str, float]:
        """The constants of a manifest, with the defaults of those that it omits."""
        return {name: self.constants[name] for name in self.optional} | dict(constants)


@dataclass(frozen=True, kw_only=True)
class SamplerDeclaration(Declaration):
    """A sampler. The target makes one from a process, its number, and the options that it takes.

    process: the noise process that it reverses.
    number: what may follow its name; None for a sampler that takes none.
    takes: which of the options `remask`, `late` and `ends` it takes (see `Choice`).
    from_left: whether it reveals tokens from the left, as a causal language model needs it.
    """

    process: str
    from_left: bool = False
    number: Number | None = None
    takes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RuleDeclaration(Declaration):
    """A rule. The target combines predictions, or makes what does from a gate if the rule needs one.

    needs: `core`; `base`: its log-probabilities are subtracted, and the core has weight 1; `gate`: the numbers in the
        manifest of the one small model; `several`: small models beside a causal core. Members share a weight of 1 where
        none of the last three is needed.
    schedule: the only one that it runs by; None where any will do.
    usual_beside: the kinds of attention of the cores beside which it is the default.
    """

    needs: tuple[str, ...] = ()
    schedule: str | None = None
    usual_beside: tuple[str, ...] = ()

    @property
    def weighs(self) -> bool:
        """Whether it sets the weights itself, so that none can be given."""
        return "gate" in self.needs or "several" in self.needs


@dataclass(frozen=True, kw_only=True)
class ScheduleDeclaration(Declaration):
    """A schedule. The target makes one from a weight and its number.

    varies: whose weight it changes over the noise levels, `small` or `core`. None if it changes no weight.
    pauses: whether there are levels at which these members are not run.
    number: what may follow its name.
    """

    varies: str | None = None
    pauses: bool = False
    number: Number | None = None


PROCESSES: tuple[ProcessDeclaration, ...] = (
    ProcessDeclaration(
        name="simplex",
        target="ssdcli.engine.process.sparse_simplex:simplex",
        help="Gaussian noise on almost-one-hot logits, as in SSD-LM",
        constants={"K": 5.0, "s": 1e-4},
        published=("steps",),
        schedule="leaning",
    ),
    ProcessDeclaration(
        name="masked",
        target="ssdcli.engine.process.masked:masked",
        help="tokens are hidden one by one, as in MDLM and LLaDA",
        constants={"t_min": 1e-3},
        optional=("t_min",),
    ),
    ProcessDeclaration(
        name="uniform",
        target="ssdcli.engine.process.uniform:uniform",
        help="tokens are replaced by random ones, as in DiffusionGemma",
        published=("hot", "cold", "bound", "sure", "stable", "steps"),
    ),
)

REMASK = Number(name="remask", symbol="P", default=0.0, check=at_least(0, below=1))
"""The probability with which a step hides a known token again."""

_UNMASKING = ("remask", "late")

SAMPLERS: tuple[SamplerDeclaration, ...] = (
    SamplerDeclaration(
        name="nucleus",
        target="ssdcli.engine.sampling.one_hot:OneHot",
        help="projects each position onto one token of its nucleus",
        process="simplex",
    ),
    SamplerDeclaration(
        name="multi-hot",
        target="ssdcli.engine.sampling.one_hot:MultiHot",
        help="projects each position onto its whole nucleus",
        process="simplex",
    ),
    SamplerDeclaration(
        name="top-k",
        target="ssdcli.engine.sampling.unmasking:TopK",
        help="reveals the K positions of lowest entropy",
        process="masked",
        number=Number(name="k", symbol="K", default=0, check=whole(at_least(0))),
        takes=_UNMASKING,
    ),
    SamplerDeclaration(
        name="threshold",
        target="ssdcli.engine.sampling.unmasking:Threshold",
        help="reveals the positions whose likeliest token has a probability of P or more",
        process="masked",
        number=Number(name="threshold", symbol="P", default=0.9, check=above(0, most=1)),
        takes=_UNMASKING,
    ),
    SamplerDeclaration(
        name="entropy-bound",
        target="ssdcli.engine.sampling.unmasking:EntropyBound",
        help="reveals the positions of lowest entropy, up to so many nats together",
        process="masked",
        number=Number(name="bound", symbol="NATS", default=0.1),
        takes=_UNMASKING,
    ),
    SamplerDeclaration(
        name="ancestral",
        target="ssdcli.engine.sampling.unmasking:Ancestral",
        help="reveals positions in random order",
        process="masked",
        takes=_UNMASKING,
    ),
    SamplerDeclaration(
        name="left-to-right",
        target="ssdcli.engine.sampling.left_to_right:LeftToRight",
        help="reveals the leftmost hidden position, and further ones while every member gives one token P or more",
        process="masked",
        number=Number(name="sure", symbol="P", check=above(0, most=1)),
        takes=(*_UNMASKING, "ends"),
        from_left=True,
    ),
    SamplerDeclaration(
        name="entropy-bound",
        target="ssdcli.engine.sampling.acceptance:Acceptance",
        help="accepts the positions of lowest entropy, up to so many nats together, and renoises the others",
        process="uniform",
        number=Number(name="bound", symbol="NATS"),
    ),
)

RULES: tuple[RuleDeclaration, ...] = (
    RuleDeclaration(
        name="mix",
        target="ssdcli.engine.ensemble.rules:mix",
        help="the weighted mean of log-probabilities",
    ),
    RuleDeclaration(
        name="average",
        target="ssdcli.engine.ensemble.rules:average",
        help="the weighted mean of probabilities",
        usual_beside=("autoregressive",),  # measured, see docs/lab/rules.md
    ),
    RuleDeclaration(
        name="contrast",
        target="ssdcli.engine.ensemble.rules:contrast",
        help="the core, plus what a small model says more than its base",
        needs=("core", "base"),
    ),
    RuleDeclaration(
        name="gated",
        target="ssdcli.engine.ensemble.rules:gated",
        help="mix, or average beside autoregressive cores, with weights that a gate gives at each position",
        needs=("core", "gate"),
        schedule="leaning",
    ),
    RuleDeclaration(
        name="switching",
        target="ssdcli.engine.ensemble.switching:Switching",
        help="the core with each of several small models, by how likely each is to have written the text so far",
        needs=("core", "several"),
        schedule="constant",
    ),
)

SCHEDULES: tuple[ScheduleDeclaration, ...] = (
    ScheduleDeclaration(
        name="constant",
        target="ssdcli.engine.ensemble.schedules:Constant",
        help="the same weights at every noise level",
    ),
    ScheduleDeclaration(
        name="leaning",
        target="ssdcli.engine.ensemble.schedules:Leaning",
        help="small models weigh more where there is more noise",
        varies="small",
        number=Number(
            name="slope", symbol="S", default=2.0, check=between(-20, 20)
        ),  # a slope of 20 is already a step function
    ),
    ScheduleDeclaration(
        name="sandwich",
        target="ssdcli.engine.ensemble.schedules:Sandwich",
        help="the core runs only in the middle of the trajectory; F is the share without it",
        varies="core",
        pauses=True,
        number=Number(name="light", symbol="F", default=0.25, check=between(0, 1)),
    ),
    ScheduleDeclaration(
        name="core-last",
        target="ssdcli.engine.ensemble.schedules:Late",
        help="the core runs only in the last steps; F is the share without it",
        varies="core",
        pauses=True,
        number=Number(name="light", symbol="F", default=0.25, check=between(0, 1)),
    ),
)

_Declared = TypeVar("_Declared", bound=Declaration)


def process(name: str) -> ProcessDeclaration:
    """The noise process of a name; ValueError names those that are known."""
    return _find("there is no noise process", name, PROCESSES)


def samplers(process: str) -> tuple[SamplerDeclaration, ...]:
    """All samplers of a noise process, the default first."""
    return tuple(one for one in SAMPLERS if one.process == process)


def sampler(process: str, name: str | None = None) -> SamplerDeclaration:
    """The sampler of a name, or the default; ValueError names those that the process has."""
    known = samplers(process)
    return _find(f"the {process} process has no sampler", known[0].name if name is None else name, known)


def from_left(process: str) -> str:
    """The name of the first sampler of a process that reveals tokens from the left."""
    return next(one.name for one in samplers(process) if one.from_left)


def rule(name: str) -> RuleDeclaration:
    """The rule of a name; ValueError names those that are known."""
    return _find("there is no rule", name, RULES)


def default_rule(attention: str | None = None) -> str:
    """The name of the rule that is used unless another is chosen.

    attention: the core's, as its manifest names it; None without a core.
    """
    return next((one.name for one in RULES if attention in one.usual_beside), RULES[0].name)


def rule_defaults() -> str:
    """The default rules, for help texts."""
    special = [f"{one.name} beside {' and '.join(one.usual_beside)} cores" for one in RULES if one.usual_beside]
    return ", ".join([*special, f"else {default_rule()}"])


def needing(what: str) -> RuleDeclaration:
    """The first rule that needs something: `base`, `gate` or `several`."""
    return next(one for one in RULES if what in one.needs)


def schedule(name: str) -> ScheduleDeclaration:
    """The schedule of a name; ValueError names those that are known."""
    return _find("there is no schedule", name, SCHEDULES)


def names(declared: Iterable[Declaration]) -> tuple[str, ...]:
    """The names of some declarations, in their order."""
    return tuple(one.name for one in declared)


def described(declared: Iterable[Declaration]) -> str:
    """Declarations with their numbers and what they do, for help texts: `top-k[=K] (reveals ...), ...`."""
    return ", ".join(f"{written(one)} ({one.help})" for one in declared)


def sampler_help() -> str:
    """Every process with its samplers, for help texts."""
    return "; ".join(f"{one.name}: {described(samplers(one.name))}" for one in PROCESSES)


def schedule_help() -> str:
    """How each schedule is written, for errors."""
    return ", ".join(map(written, SCHEDULES))


def written(one: Declaration) -> str:
    """How a declaration is chosen: its name, and its number if it has one, as in `top-k[=K]` and `leaning[:S]`."""
    if isinstance(one, SamplerDeclaration) and one.number is not None:
        return f"{one.name}[={one.number.symbol}]"
    if isinstance(one, ScheduleDeclaration) and one.number is not None:
        return f"{one.name}[:{one.number.symbol}]"
    return one.name


def _find(absent: str, name: str, declared: tuple[_Declared, ...]) -> _Declared:
    """The declaration of a name; ValueError says that it is absent, in the words given, and lists the others."""
    for one in declared:
        if one.name == name:
            return one
    raise ValueError(f"{absent} {name!r}: choose from {', '.join(names(declared))}")
