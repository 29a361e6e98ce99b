"""Membership inference: whether a model's losses tell the documents that it was trained on from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 20  # documents on each side, at least

_ENOUGH_FOR_1_PERCENT = 100  # documents on each side, at least: of fewer, 1% is less than one
_SPLITS = 16  # random splits that are averaged


@dataclass(frozen=True)
class Attack:
    """How well a score tells members from other documents.

    pairs: documents on each side.
    auc: the probability that a member scores above another document.
    auc_error: its standard error.
    advantage: true minus false positive rate, at a threshold chosen on other documents; 0 for guessing.
    advantage_error: its standard error.
    caught: the share of members found at a false positive rate of 1%; None with too few documents.
    """

    pairs: int
    auc: float
    auc_error: float
    advantage: float
    advantage_error: float
    caught: float | None


def attack(members: np.ndarray, others: np.ndarray) -> Attack:
    """Measure how well scores tell members, (N,), from others, (N,), if a high score is taken to mean a member.

    The best threshold of a small sample looks better than it is: over 50 pairs, the largest difference between the
    rates averages 0.17 even if nothing was memorised. So the threshold is chosen on one half of the documents and
    judged on the other, over several random splits; the mean is then 0 if nothing was memorised. Its standard error is
    that of two independent proportions, true and false positives, each smoothed by one success and one failure
    (Laplace), so that a rate of 0 or 1 in the sample does not count as certain.

    The advantage is from Yeom et al. (2018), the error of the AUC from DeLong et al. (1988), and the advice to judge
    attacks at a low false positive rate from Carlini et al. (2022).
    """
    auc, auc_error = _auc(members, others)
    draw = np.random.default_rng(0)
    rates = np.mean([_judged(members, others, draw) for _ in range(_SPLITS)], axis=0)
    smoothed = (rates * len(members) + 1) / (len(members) + 2)
    error = float(np.sqrt((smoothed * (1 - smoothed) / len(members)).sum()))
    return Attack(len(members), auc, auc_error, float(rates[0] - rates[1]), error, _caught(members, others))


def match(lengths: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """The index of the nearest length that is not yet taken, for each wanted length."""
    left = np.asarray(lengths, dtype=float)
    places = []
    for length in wanted[: len(lengths)]:
        place = int(np.abs(left - length).argmin())
        left[place] = np.inf
        places.append(place)
    return places


def _auc(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The AUC and its standard error.

    The AUC is a U-statistic, the mean of [member > other] over all pairs. Its variance comes from how much the share of
    wins varies from member to member and from other to other, not from the N^2 pairs, which are not independent.
    """
    above = (members[:, None] > others).astype(float) + 0.5 * (members[:, None] == others)
    by_member, by_other = above.mean(1), above.mean(0)
    error = np.sqrt(by_member.var(ddof=1) / len(members) + by_other.var(ddof=1) / len(others))
    return float(above.mean()), float(error)


def _judged(members: np.ndarray, others: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The true and false positive rates, (2,), of each half of the documents at the threshold chosen on the other."""
    sides = [np.array_split(draw.permutation(scores), 2) for scores in (members, others)]
    rates = np.zeros((2, 2))
    for half in (0, 1):
        threshold = _best_threshold(sides[0][1 - half], sides[1][1 - half])
        rates[half] = [(side[half] > threshold).mean() for side in sides]
    return np.asarray(rates.mean(0))


def _best_threshold(members: np.ndarray, others: np.ndarray) -> float:
    """The threshold with the largest difference between the rates, halfway between two scores."""
    scores = np.concatenate([members, others])
    order = scores.argsort()
    steps = np.concatenate([np.full(len(members), 1 / len(members)), np.full(len(others), -1 / len(others))])
    gain = -steps[order].cumsum()  # true minus false positive rate, at a threshold right above each score
    best, ranked = int(gain.argmax()), scores[order]
    return float(ranked[best : best + 2].mean())


def _caught(members: np.ndarray, others: np.ndarray) -> float | None:
    if len(others) < _ENOUGH_FOR_1_PERCENT:
        return None
    threshold = np.sort(others)[-1 - len(others) // 100]
    return float((members > threshold).mean())
