"""Means over documents with 95% confidence intervals; documents are the independent draws."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from ssdcli.evaluation.measurement import Estimate

_NORMAL = NormalDist().inv_cdf(0.975)


def ratio(sums: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Sum of the documents' sums by the sum of their sizes, both (D,), with the interval of a ratio estimator."""
    value, documents = sums.sum() / sizes.sum(), len(sums)
    if documents < 2:
        return Estimate(float(value), math.nan)
    spread = np.sqrt(((sums - value * sizes) ** 2).sum() * documents / (documents - 1))
    return Estimate(float(value), float(student(documents - 1) * spread / sizes.sum()))


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t, within 1% from 3 degrees of freedom on.

    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    z = _NORMAL
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / float(freedom) ** power for power, term in enumerate(terms))


def chosen_elsewhere(sums: np.ndarray) -> np.ndarray:
    """Each document's loss in that column (D, C) which is best for the other half of the documents: (D,).

    So what is chosen is measured on documents that did not choose it. The documents must be in random order.
    """
    found = np.empty(len(sums))
    for half in (0, 1):
        best = int(sums[1 - half :: 2].sum(0).argmin()) if len(sums) > 1 else 0
        found[half::2] = sums[half::2, best]
    return found
