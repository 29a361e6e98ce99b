"""Means over documents with 95% confidence intervals.

The independent draws are documents, not tokens: the tokens of a document share a topic, a style and an author, and
intervals from tokens would be far too narrow.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from ssdcli.evaluation.measurement import Estimate

ENOUGH = 8  # documents whose scatter tells how certain a mean over them is, at least

_NORMAL = NormalDist().inv_cdf(0.975)


def ratio(sums: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Divide the sum of the documents' sums by the sum of their sizes, both (D,): a ratio estimator R.

    Long documents weigh more, as in a code length. The size is random, too, so that the variance is not that of a mean:
    by linearisation (the delta method), R - E[R] is nearly the mean of s_d - R n_d over the mean size, with
    D / (D - 1) for the degree of freedom that R has taken. Student's t in place of the normal quantile makes the
    interval honest for few documents. For D = 1 there is no interval, nor for an infinite sum.
    """
    value, documents = sums.sum() / sizes.sum(), len(sums)
    if documents < 2 or not math.isfinite(value):
        return Estimate(float(value), math.nan)
    spread = np.sqrt(((sums - value * sizes) ** 2).sum() * documents / (documents - 1))
    return Estimate(float(value), float(student(documents - 1) * spread / sizes.sum()))


def margins(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The margins of ratios as `ratio` finds them: of sums (D, K, W) and sizes (D, K), for each of K and W: (K, W).

    They are nan for those of K in which fewer than ENOUGH documents have any size.
    """
    documents, whole = (sizes > 0).sum(0), sizes.sum(0)
    quantiles = np.array([student(n - 1) * math.sqrt(n / (n - 1)) if n >= ENOUGH else math.nan for n in documents])
    with np.errstate(divide="ignore", invalid="ignore"):
        residual = sums - (sums.sum(0) / whole[:, None]) * sizes[..., None]
        return np.asarray(np.sqrt((residual**2).sum(0)) * (quantiles / whole)[:, None])


def gain(members: np.ndarray, ensembles: np.ndarray, sizes: np.ndarray) -> Estimate:
    """The bits that the best ensemble, one of (D, C) losses in nats, saves of the best member's, one of (D, M).

    Losses are paired by document: what they have in common cancels. The ensemble is chosen on other documents than
    those that it is measured on. The member is chosen on all of them, which flatters the member, so the gain is a
    cautious estimate. For D = 1 there are no others, and the gain is nan.

    sizes: of the documents, (D,), such as their bytes; the gain is per unit of it.
    """
    if len(sizes) < 2:
        return Estimate(math.nan, math.nan)
    better = members[:, int(members.sum(0).argmin())]
    return ratio((better - chosen_elsewhere(ensembles)) / math.log(2), sizes)


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t, within 1% from 3 degrees of freedom on.

    An expansion about the normal quantile z in powers of 1 / freedom: Abramowitz and Stegun, "Handbook of Mathematical
    Functions" (1964), 26.7.5.
    """
    z = _NORMAL
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))


def proportion(hits: int, draws: int) -> tuple[float, float]:
    """The 95% interval of a probability that came true `hits` times in independent draws: its ends, from 0 to 1.

    It is useful near 0 and 1 as well, and for few draws. Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference", JASA 22 (1927).
    """
    z, share = _NORMAL**2 / draws, hits / draws
    middle, half = share + z / 2, math.sqrt(z * (share * (1 - share) + z / 4))
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def chosen_elsewhere(sums: np.ndarray) -> np.ndarray:
    """Each document's loss in the column of sums (D, C) that is best for the other half of the documents: (D,).

    The least of C noisy means is below the least of their expectations, so that a choice looks better on the documents
    that made it than it is. Here each half is judged by the other half's choice (two-fold cross-validation), which is
    unbiased for a choice made on half as much text, and so a little pessimistic. Halves are the even and the odd
    documents, which must be in random order.
    """
    found = np.empty(len(sums))
    for half in (0, 1):
        best = int(sums[1 - half :: 2].sum(0).argmin())
        found[half::2] = sums[half::2, best]
    return found
