"""Which positions of a masked canvas a step reveals, and which it hides again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.nucleus import entropy


class Unmasking(Protocol):
    """An order of the hidden positions, and how many of them a step may reveal before their time.

    The order and the number depend on predictions and never on the tokens drawn, so that with one position a step the
    joint distribution is sampled without bias. Predictions are judged as the model made them: sharpened by a low
    temperature, all would seem sure at once.
    """

    def __call__(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Return the doubt about each position, least revealed first: (B, L), and the number: (B,).

        log_p: (B, L, V) float32. hidden: (B, L) bool.
        """
        ...


@dataclass(frozen=True)
class TopK:
    """The positions of lowest entropy, k in each step; with none, the time alone decides how many."""

    k: float = 0

    def __post_init__(self) -> None:
        if self.k < 0 or self.k % 1 != 0:
            raise ValueError(f"the positions of a top-k step must be a whole number, not {self.k}")

    def __call__(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; k."""
        return entropy(log_p), torch.full_like(hidden[:, 0], int(self.k), dtype=torch.int64)


@dataclass(frozen=True)
class Threshold:
    """All positions whose largest probability reaches the threshold, one at least (Fast-dLLM, Wu et al., 2025)."""

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"a threshold must be above 0 and at most 1, not {self.threshold}")

    def __call__(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by the largest probability; those that reach the threshold."""
        confidence = log_p.amax(-1).exp()
        return -confidence, (hidden & (confidence >= self.threshold)).sum(-1).clamp(min=1)


@dataclass(frozen=True)
class EntropyBound:
    """The positions of lowest entropy while their sum of entropies, less the largest, stays within a bound in nats.

    What is left of the sum bounds the mutual information of the positions, so that they are nearly independent and may
    be drawn at once (EB-Sampler, Ben-Hamu et al., 2025).
    """

    bound: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.bound < math.inf:
            raise ValueError(f"an entropy bound must be a number of nats of at least 0, not {self.bound}")

    def within(self, entropies: Tensor) -> Tensor:
        """The positions that may be drawn at once, one at least: (B, L) to (B, L) bool; never those of infinity."""
        ordered, places = entropies.sort(dim=-1, stable=True)
        chosen = ordered.cumsum(-1) - ordered <= self.bound
        return torch.zeros_like(chosen).scatter(-1, places, chosen)

    def __call__(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; those within the bound."""
        doubt = entropy(log_p)
        return doubt, self.within(doubt.masked_fill(~hidden, math.inf)).sum(-1)


@dataclass(frozen=True)
class Ancestral:
    """Any positions, each order equally likely, as many as the time asks for.

    With one position a step it is the first-hitting sampler (Zheng et al., 2025): exact for a model that is not told
    the noise level.
    """

    def __call__(self, log_p: Tensor, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order at random; none."""
        return noise.uniform(hidden.shape[1]), torch.zeros_like(hidden[:, 0], dtype=torch.int64)


UNMASKINGS: dict[str, Callable[..., Unmasking]] = {
    "top-k": TopK,
    "threshold": Threshold,
    "entropy-bound": EntropyBound,
    "ancestral": Ancestral,
}


def make_unmasking(name: str, value: float | None) -> Unmasking:
    """Build what a name of UNMASKINGS and its number (None: the usual one) stand for; ValueError if it is wrong."""
    if value is None:
        return UNMASKINGS[name]()
    if name == "ancestral":
        raise ValueError(f"ancestral sampling takes no number, and {value} is given")
    return UNMASKINGS[name](value)


def room(length: int, s: Tensor) -> Tensor:
    """How many of `length` positions a share s of them is, rounded down: (B,) float64."""
    return (length * s + 1e-6).floor()  # 10 * (1 - 9 / 10) is a little less than 1


def ends_in_turn(ends: Tensor, text: Tensor, due: Tensor) -> Tensor:
    """Pick `due` (B,) of the hidden positions where an end is expected, given those where text is, both (B, L) bool.

    While text is hidden the last of them come first, since an end takes away all that stands behind it; then the first
    ones, and one at least, since the text is over with the first end: (B, L) bool.
    """
    bare = ~text.any(-1)
    places = torch.arange(ends.shape[1], dtype=torch.float32, device=ends.device)
    return lowest(torch.where(bare[:, None], places, -places), ends, torch.maximum(due, bare.long()))


def lowest(scores: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Pick `count` (B,) positions, those of the lowest scores (B, L) among some (B, L) bool: (B, L) bool."""
    order = scores.masked_fill(~among, math.inf).argsort(dim=-1, stable=True)
    return among & (order.argsort(dim=-1) < count[:, None])
