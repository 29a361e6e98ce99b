"""What an audit's numbers mean to the owner of the text. Needs no torch: a manifest's metrics are enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXPOSURE = "audit exposure"
VERBATIM = "audit verbatim share"
ADVANTAGE = "audit membership advantage"
ADVANTAGE_ERROR = "audit membership advantage error"

LEVELS = ("low", "moderate", "high")


@dataclass(frozen=True)
class _Scale:
    """How to judge a metric.

    metric: its name in the manifest.
    measure: what it measures, in a word or two.
    moderate: the smallest value of that level.
    high: the smallest value of that level.
    danger: what whoever has the weights can then do.
    error: the name of its standard error; a value less than two of them above 0 counts as 0.
    """

    metric: str
    measure: str
    moderate: float
    high: float
    danger: str
    error: str | None = None


# Exposure: without memory a canary has 1.44 bits. At 3 bits it is in the first eighth of all guesses, which the mean of
# eight canaries reaches by chance once in 250 times; at 6 bits it is in the first 64th: few guesses are left to try.
# Verbatim: at 1%, a text of a page or two repeats a sentence; at 10%, copying is a habit.
# Advantage a: of a document in the training text and one outside it, a guess is right (1 + a) / 2 of the time, which is
# 55 and 65 times in 100 (Yeom et al., "Privacy risk in machine learning", 2018).
_SCALES = (
    _Scale(EXPOSURE, "exposure", 3.0, 6.0, "find secrets of its training text by trying guesses"),
    _Scale(VERBATIM, "copying", 0.01, 0.1, "make it repeat passages of its training text word for word"),
    _Scale(ADVANTAGE, "membership", 0.1, 0.3, "tell which documents it learned from", ADVANTAGE_ERROR),
)


@dataclass(frozen=True)
class Verdict:
    """The verdict of an audit.

    level: one of LEVELS.
    meaning: a sentence.
    """

    level: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.level.capitalize()} risk. {self.meaning}"


def judge(name: str, metrics: Mapping[str, float]) -> Verdict | None:
    """Judge a model by the metrics in its manifest; None if it was never audited."""
    measured = {scale: _severity(scale, metrics) for scale in _SCALES if scale.metric in metrics}
    if not measured:
        return None
    worst = max(measured.values())
    if worst == 0:
        found = "found no sign that its weights give away the text it was trained on; that is no proof"
        missing = [scale.measure for scale in _SCALES if scale not in measured]
        bound = f", and it did not measure {_listed(missing)}" if missing else ""
        return Verdict(LEVELS[0], f"The audit of {name!r} {found}{bound}, so share it with care.")
    dangers = _listed([scale.danger for scale, severity in measured.items() if severity == worst])
    how = "can" if worst == len(LEVELS) - 1 else "can sometimes"
    advice = "give them only to people to whom you would give the text itself"
    return Verdict(LEVELS[worst], f"Whoever has the weights of {name!r} {how} {dangers}: {advice}.")


def _severity(scale: _Scale, metrics: Mapping[str, float]) -> int:
    """The place of a metric's level in LEVELS."""
    value = metrics[scale.metric]
    if scale.error is not None and value < 2 * metrics.get(scale.error, 0):
        return 0
    return (value >= scale.moderate) + (value >= scale.high)


def _listed(phrases: list[str]) -> str:
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last
