"""Early stops: a row whose prediction has settled takes no more steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssdcli.engine.sampling.nucleus import entropy


@dataclass(frozen=True)
class Settling:
    """What is remembered of earlier steps.

    likeliest: the likeliest tokens, (B, L) int64.
    since: for how many steps they have been the same, (B,) int64.
    """

    likeliest: Tensor
    since: Tensor


@dataclass(frozen=True)
class EarlyStop:
    """A row stops when its likeliest tokens have been the same for `steps` steps and its mean entropy is low.

    entropy: the bound, in nats a position.
    steps: how long they must have been the same. The rule of DiffusionGemma.
    """

    entropy: float
    steps: int = 1

    def settle(self, before: Settling | None, log_p: Tensor) -> tuple[Settling, Tensor]:
        """Take in log p (B, L, V) of another step; returns what to remember, and the rows that stop: (B,) bool."""
        likeliest = log_p.argmax(-1)
        if before is None:
            since = torch.zeros(len(log_p), dtype=torch.int64, device=log_p.device)
        else:
            since = torch.where((likeliest == before.likeliest).all(-1), before.since + 1, 0)
        sure = entropy(log_p.float()).mean(-1) < self.entropy
        return Settling(likeliest, since), sure & (since >= self.steps)


class Quorum:
    """Tells whether all rows are done, without making the host wait for a GPU.

    There the answer is copied in the background and may come some steps late. That is harmless: a row that is done does
    not change any more, and only work is lost.
    """

    def __init__(self) -> None:
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None

    def reached(self, done: Tensor) -> bool:
        """Whether all of done (B,) bool hold, as far as is known."""
        if not done.is_cuda:
            return bool(done.all())
        if self._asked is None:
            answer = done.all().to("cpu", non_blocking=True)  # lies in pinned memory, to be read after the event
            self._asked = answer, torch.cuda.current_stream(done.device).record_event()
        answer, arrival = self._asked
        if not arrival.query():
            return False
        self._asked = None
        return bool(answer)
