"""The reverse step of the masked process: which hidden positions a step reveals, and which it hides again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from ssdcli.engine import catalogue
from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import CounterNoise, Noise
from ssdcli.engine.process.masked import Masked
from ssdcli.engine.sampling.nucleus import Picker, entropy, predicted
from ssdcli.engine.sampling.reverse import ReverseProcess, Times

_STEPS = 16


@dataclass(frozen=True)
class Unmasking(ABC):
    """What the samplers of the masked process share; each has its own order.

    remask: the probability with which a step hides each known token again.
    late: ids that end a text; a position where one of them is the likeliest token waits until all others are revealed.
        A model that learned from answers padded with ends is surest of these, and would end every text at once (the
        remedy of LLaDA, Nie et al., 2025).
    """

    process: Masked
    remask: float = field(default=catalogue.REMASK.usual, kw_only=True)
    late: tuple[int, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Uncertainty per position (lowest is revealed first), (B, L), and how many may be revealed early, (B,).

        Both depend on predictions and never on the tokens drawn, so that with one position a step the joint
        distribution is sampled without bias. Predictions are judged as the model made them: sharpened by a low
        temperature, all would seem sure at once.

        hidden: the positions that may be revealed, which have a prediction: (B, L) bool.
        """

    def reverse(self) -> ReverseProcess:
        """16 steps a block."""
        return ReverseProcess(self, _STEPS)

    def step(self, canvas: Tensor, prediction: Prediction, times: Times, picker: Picker, noise: CounterNoise) -> Tensor:
        """Reveal positions until at most a share s is hidden, plus those allowed early.

        With remasking, known tokens are hidden again, as many as the share s has room for, and as many more positions
        are revealed, so that the share hidden at s stays the same (ReMDM-cap, Wang et al., 2025).
        """
        log_p, hidden = prediction.log_p, canvas == self.process.mask_id
        open_ = hidden & predicted(log_p)
        ends = open_ & self._expects_end(log_p)
        text = open_ & ~ends
        doubt, ready = self.order(prediction, text, noise)
        chance = noise.uniform(canvas.shape[1])
        left = room(canvas.shape[1], times[1])
        again = lowest(chance, ~hidden & (chance < self.remask), left)
        # After the step, hidden + again - revealed positions are masks; that is to be `left` at most.
        due = hidden.sum(-1) + again.sum(-1) - left
        revealed = lowest(doubt, text, torch.maximum(due, ready))
        # Ends wait until there is not enough text left to reveal.
        revealed = revealed | ends_in_turn(ends, text, due - revealed.sum(-1))
        drawn = picker.draw(log_p, noise, revealed)
        return self._closed(torch.where(revealed, drawn, canvas.masked_fill(again, self.process.mask_id)))

    def _expects_end(self, log_p: Tensor) -> Tensor:
        """The positions where a late token is the likeliest: (B, L) bool."""
        if not self.late:
            return torch.zeros(log_p.shape[:2], dtype=torch.bool, device=log_p.device)
        return _is_one_of(log_p.argmax(-1), self.late)

    @property
    def final(self) -> tuple[int, ...]:
        """The ids after which a text is closed, as soon as nothing before them is hidden."""
        return self.late

    def _closed(self, canvas: Tensor) -> Tensor:
        """Fill the masks after an end of text that has no mask before it; that text is final."""
        if not self.final or self.remask:
            return canvas
        hidden = canvas == self.process.mask_id
        over = (_is_one_of(canvas, self.final) & (hidden.cumsum(-1) == 0)).cumsum(-1) > 0
        return torch.where(hidden & over, self.final[0], canvas)

    def decided(self, before: Tensor, after: Tensor) -> Tensor:
        """The positions that were unmasked."""
        return (before == self.process.mask_id) & (after != self.process.mask_id)

    def finished(self, canvas: Tensor) -> Tensor:
        """The rows without a mask; none with remasking, which changes known tokens until the last step."""
        return (canvas != self.process.mask_id).all(-1) & (self.remask == 0)


def _is_one_of(tokens: Tensor, ids: tuple[int, ...]) -> Tensor:
    """Which tokens (B, L) are among these ids, one at least: bool."""
    return reduce(torch.logical_or, [tokens == id for id in ids])


def room(length: int, s: Tensor) -> Tensor:
    """floor(length * s), despite rounding: (B,) float64."""
    return (length * s + 1e-6).floor()  # 10 * (1 - 9 / 10) is a little less than 1


def ends_in_turn(ends: Tensor, text: Tensor, due: Tensor) -> Tensor:
    """Pick `due` (B,) of the hidden positions where an end is expected, given those where text is, both (B, L) bool.

    While text is hidden, the last of them come first, since an end discards everything after it. Once no text is
    hidden, the first ends are revealed, at least one: (B, L) bool.
    """
    bare = ~text.any(-1)
    places = torch.arange(ends.shape[1], dtype=torch.float32, device=ends.device)
    return lowest(torch.where(bare[:, None], places, -places), ends, torch.maximum(due, bare.long()))


def lowest(scores: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Pick `count` (B,) positions, those of the lowest scores (B, L) among some (B, L) bool: (B, L) bool."""
    order = scores.masked_fill(~among, math.inf).argsort(dim=-1, stable=True)
    return among & (order.argsort(dim=-1) < count[:, None])  # the argsort of an order is each position's rank


@dataclass(frozen=True)
class Ancestral(Unmasking):
    """Positions in a random order, all orders equally likely, at the pace of the noise level.

    With one position a step it is the first-hitting sampler (Zheng et al., 2025): exact for a model that is not told
    the noise level.
    """

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """A random order; nothing is revealed early."""
        return noise.uniform(hidden.shape[1]), torch.zeros_like(hidden[:, 0], dtype=torch.int64)


@dataclass(frozen=True)
class Threshold(Unmasking):
    """All positions whose largest probability reaches the threshold, one at least."""

    threshold: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by the largest probability; those that reach the threshold."""
        confidence = prediction.log_p.amax(-1).exp()
        return -confidence, (hidden & (confidence >= self.threshold)).sum(-1).clamp(min=1)


@dataclass(frozen=True)
class TopK(Unmasking):
    """The positions of lowest entropy, k in each step; with k = 0, the noise level alone decides how many."""

    k: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; k."""
        return entropy(prediction.log_p), torch.full_like(hidden[:, 0], int(self.k), dtype=torch.int64)


def within_bound(entropies: Tensor, bound: float) -> Tensor:
    """The positions of lowest entropy while their sum of entropies, less the largest, stays within a bound in nats.

    Drawing positions S at once takes the product of their marginals for their joint distribution, an error of
    KL = sum_S H(x_i) - H(x_S) <= sum_S H(x_i) - max_S H(x_i), since H(x_S) >= max_S H(x_i). So positions within a small
    bound are nearly independent.

    entropies: (B, L), infinite for positions that take no part. Returns (B, L) bool, one position a row at least.
    """
    ordered, places = entropies.sort(dim=-1, stable=True)
    # In rising order the largest of a prefix is its last, so that the sum less the largest is the sum before it.
    chosen = ordered.cumsum(-1) - ordered <= bound
    return torch.zeros_like(chosen).scatter(-1, places, chosen)


@dataclass(frozen=True)
class EntropyBound(Unmasking):
    """The positions of lowest entropy within a bound in nats, see `within_bound`."""

    bound: float

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by entropy; those within the bound."""
        doubt = entropy(prediction.log_p)
        return doubt, within_bound(doubt.masked_fill(~hidden, math.inf), self.bound).sum(-1)
