"""Left-to-right unmasking, the order of causal language models."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor

from ssdcli.engine.ensemble.ensemble import Prediction
from ssdcli.engine.noise import Noise
from ssdcli.engine.sampling.nucleus import predicted
from ssdcli.engine.sampling.reverse import ReverseProcess
from ssdcli.engine.sampling.unmasking import Unmasking


@dataclass(frozen=True)
class LeftToRight(Unmasking):
    """The leftmost hidden position, and with it those to its right that all members are sure of.

    With one position a step, each token is drawn from the prediction given everything on its left, so that the text has
    exactly the distribution that the members define.

    sure: the probability that every member must give its likeliest token at a further position; None for no further
        position. A member that abstains, as a causal language model does everywhere but at the leftmost, is not sure.
    ends: ids that end a text; what follows one is filled at once.
    """

    sure: float | None = None
    ends: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def final(self) -> tuple[int, ...]:
        """All ends."""
        return self.ends or self.late

    def order(self, prediction: Prediction, hidden: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Order by place; the leftmost, and those that follow it without a break and are sure."""
        places = torch.arange(hidden.shape[1], dtype=torch.float32, device=hidden.device).expand(hidden.shape)
        first = hidden & (hidden.cumsum(-1) == 1)
        if self.sure is None:
            return places, first.sum(-1)
        passed = predicted(prediction.log_p) & ~hidden
        further = passed | first | agreed(prediction, self.sure)
        return places, (hidden & further.long().cumprod(-1).bool()).sum(-1)

    def reverse(self) -> ReverseProcess:
        """A step for each token of a block."""
        return ReverseProcess(self, None, from_left=self.remask == 0)


def agreed(prediction: Prediction, sure: float) -> Tensor:
    """Where every member of positive weight gives its likeliest token at least this probability: (B, L) bool."""
    ran = [
        p for p, weight in zip(prediction.by_member, prediction.weights, strict=True) if p is not None and weight > 0
    ]
    return reduce(torch.logical_and, [log_p.amax(-1) >= math.log(sure) for log_p in ran])  # NaN is never larger
