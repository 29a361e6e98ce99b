"""Whether a model's losses tell the documents that it was trained on from others: membership inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 20  # documents on each side, below which nothing is told

_ENOUGH_FOR_1_PERCENT = 100
_SPLITS = 16


@dataclass(frozen=True)
class Attack:
    """How well a score tells members from others; `pairs` documents on each side.

    auc: the probability that a member scores above another document. advantage: true less false positive rate at a
    threshold that other documents chose, 0 for guessing. errors: standard errors. caught: the share of members that is
    found when 1% of the others are taken for such, None with too few documents.
    """

    pairs: int
    auc: float
    auc_error: float
    advantage: float
    advantage_error: float
    caught: float | None


def attack(members: np.ndarray, others: np.ndarray) -> Attack:
    """Take documents of a high score for members: members (N,), others (N,).

    The best threshold of a small sample looks better than it is: without memory the largest difference of the rates
    over 50 pairs is 0.17 on average. Here one half of the documents chooses it and the other half is judged, over many
    random halves, so that without memory the mean is 0. The advantage is that of Yeom et al. (2018); the error of the
    AUC is DeLong's (1988); the rate at 1% is what Carlini et al. (2022) ask for.
    """
    auc, auc_error = _auc(members, others)
    draw = np.random.default_rng(0)
    rates = np.mean([_judged(members, others, draw) for _ in range(_SPLITS)], axis=0)
    smoothed = (rates * len(members) + 1) / (len(members) + 2)  # a rate of 0 or 1 in a sample is not certain
    error = float(np.sqrt((smoothed * (1 - smoothed) / len(members)).sum()))
    return Attack(len(members), auc, auc_error, float(rates[0] - rates[1]), error, _caught(members, others))


def match(lengths: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """For each of the wanted lengths, the place of the nearest of the others that is not yet taken."""
    left = np.asarray(lengths, dtype=float)
    places = []
    for length in wanted[: len(lengths)]:
        place = int(np.abs(left - length).argmin())
        left[place] = np.inf
        places.append(place)
    return places


def _auc(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    above = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    by_member, by_other = above.mean(1), above.mean(0)
    error = np.sqrt(by_member.var(ddof=1) / len(members) + by_other.var(ddof=1) / len(others))
    return float(above.mean()), float(error)


def _judged(members: np.ndarray, others: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The true and the false positive rate, each half of the documents judged by the other's threshold: (2,)."""
    sides = [np.array_split(draw.permutation(scores), 2) for scores in (members, others)]
    rates = np.zeros((2, 2))
    for half in (0, 1):
        threshold = _best_threshold(sides[0][1 - half], sides[1][1 - half])
        rates[half] = [(side[half] > threshold).mean() for side in sides]
    return np.asarray(rates.mean(0))


def _best_threshold(members: np.ndarray, others: np.ndarray) -> float:
    """Half way between the two scores where the difference of the rates is largest."""
    scores = np.concatenate([members, others])
    order = scores.argsort()
    steps = np.concatenate([np.full(len(members), 1 / len(members)), np.full(len(others), -1 / len(others))])
    gain = -steps[order].cumsum()  # true less false positives, of a threshold right above each score
    best, ranked = int(gain.argmax()), scores[order]
    return float(ranked[best : best + 2].mean())


def _caught(members: np.ndarray, others: np.ndarray) -> float | None:
    if len(others) < _ENOUGH_FOR_1_PERCENT:
        return None
    threshold = np.sort(others)[-1 - len(others) // 100]
    return float((members > threshold).mean())
