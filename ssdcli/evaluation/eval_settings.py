"""Settings of evaluations and audits, for flags, variables and recipes. Needs neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssdcli.engine import catalogue
from ssdcli.errors import require
from ssdcli.generation.blend import rules
from ssdcli.machine.placement import FREE, Placement
from ssdcli.options.checks import above, at_least, each, one_of
from ssdcli.options.declare import check_options, group, option


@dataclass(frozen=True)
class EvalSettings:
    """What to measure on held-out text; values are checked when the object is made (UsageError).

    rules: of the ensembles; by default all that the members allow.
    schedules: of the ensembles; by default all that the rules allow, except files.
    context: private text, which only small models see.
    documents: how many are drawn at random from the text, at most.
    minutes: for the losses; reading and generating take extra time.
    seed: of documents, noise and texts.
    generate: how many documents are continued, to measure the texts that are written.
    calibration: how many places of the documents are written on from, to see how often what is written is right.
    cloze: whether next words are compared with those that rows of the text give.
    judge: the folder of a causal language model that reads these texts.
    placement: where the models run.
    include_trained: whether documents that a member was trained on are measured, too.
    exact: whether masked models are measured by their exact code length, as they always are beside causal cores.
    """

    rules: tuple[str, ...] = option(
        (),
        f"{', '.join(rules())}. Repeatable.",
        each(one_of(rules)),
        flag="rule",
        metavar="RULE",
        default="all that fit",
    )
    schedules: tuple[str, ...] = option(
        (),
        f"{catalogue.schedule_help()} or a TOML file. Repeatable.",
        flag="schedule",
        metavar="NAME",
        default="all that fit, except files",
    )
    context: str = ""
    documents: int = option(1000, "The most documents to measure.", at_least(1), metavar="N", common=True)
    minutes: float = option(3.0, "Time for measuring losses.", above(0), metavar="M", common=True)
    seed: int = option(0, "Seed of documents, noise and texts.", metavar="N")
    generate: int = option(
        0, "Let all models continue N documents, and measure the texts.", at_least(0), metavar="N", common=True
    )
    calibration: int = option(
        0,
        "Let all models write on from N places, and compare how sure they are with how often they are right.",
        at_least(0),
        metavar="N",
    )
    cloze: bool = option(False, "Compare next words with those that rows of the text give under 'cloze'.")
    judge: Path | None = option(
        None, "A causal language model for the perplexity and MAUVE of these texts.", metavar="FOLDER", common=True
    )
    placement: Placement = group(FREE, without=("cache",))
    include_trained: bool = option(
        False, "Also measure documents that a member was trained on, which are left out by default."
    )
    exact: bool = option(
        False, "Measure masked models by their exact code length, as beside causal cores, not by the NELBO."
    )

    def __post_init__(self) -> None:
        check_options(self)
        reads = self.judge is None or self.generate > 0
        require(reads, "a judge reads texts, and none are to be generated.", "Pass --generate 50, or omit --judge.")


@dataclass(frozen=True)
class AuditSettings:
    """How to audit; values are checked when the object is made (UsageError).

    minutes: for the measures; reading takes extra time.
    seed: of all random draws.
    """

    minutes: float = option(3.0, "Time for measuring; reading takes extra time.", above(0), metavar="M", common=True)
    seed: int = option(0, "Seed of all random draws.", metavar="N", common=True)

    def __post_init__(self) -> None:
        check_options(self)
