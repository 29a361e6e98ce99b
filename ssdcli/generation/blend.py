"""How the members of an ensemble combine, as it is asked for: by a rule, a schedule and guides."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssdcli.engine import catalogue
from ssdcli.engine.catalogue import RuleDeclaration
from ssdcli.options.checks import one_of
from ssdcli.options.declare import check_options, option


def rules() -> tuple[str, ...]:
    """The names of the rules by which members combine."""
    return catalogue.names(catalogue.RULES)


@dataclass(frozen=True)
class Blend:
    """How members combine.

    rule: how their predictions are combined, by a name of the catalogue; None for what suits the core.
    schedule: when members run: a name of the catalogue, NAME or NAME:X, or a file. By default it is the noise process's
        own where a core and small models share the weight, else the catalogue's first.
    guides: classifiers that steer the text, each MODEL:LABEL or MODEL:LABEL=SCALE.
    memory: whether the small models' memories take part, and one of the private context.
    """

    rule: str | None = option(
        None,
        f"How predictions are combined: {catalogue.described(catalogue.RULES)}.",
        one_of(rules),
        metavar="RULE",
        default=catalogue.rule_defaults(),
    )
    schedule: str | None = option(
        None,
        f"When members run: {catalogue.described(catalogue.SCHEDULES)}, or a TOML file.",
        metavar="NAME",
        default="what suits the noise process",
    )
    guides: tuple[str, ...] = option(
        (),
        "Steer with a classifier that has the same tokenizer: a folder, and one of its labels. Repeatable.",
        flag="guide",
        metavar="MODEL:LABEL[=SCALE]",
    )
    memory: bool = option(
        True,
        "Let the indexed text of small models take part, and that of --context.",
        negatable=True,
    )

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def declared(self) -> RuleDeclaration:
        """The rule, see the catalogue; without one, that of a core whose attention is not known."""
        return catalogue.rule(self.rule or catalogue.default_rule())

    @property
    def needs(self) -> tuple[str, ...]:
        """What the rule needs besides predictions."""
        return self.declared.needs

    def beside(self, attention: str | None) -> Blend:
        """The same with a rule, where none is named the default one; attention: the core's, None without a core."""
        return replace(self, rule=self.rule or catalogue.default_rule(attention))


PLAIN = Blend()
